from twotower_tf.features.argument_names import argument_names


def test_identifiers_stay_and_others_become_distinct_ones():
    names = ["user_id", "C14", "class", "self", "device type", "device-type", "device_type", "2x", "_x", "größe", ""]
    found = argument_names(names)
    assert list(found) == names
    assert found["user_id"] == "user_id" and found["C14"] == "C14"
    assert found["class"] == "arg_class" and found["self"] == "arg_self"
    assert found["device type"] == "device_type" and found["device-type"] == "device_type_"
    assert found["device_type"] == "device_type__"
    assert found["2x"] == "arg_2x"
    assert len(set(found.values())) == len(names)
    assert all(argument.isidentifier() and argument.isascii() for argument in found.values())
