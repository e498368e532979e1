/* Vectors of a bundle's towers by TensorFlow's C API alone.
 *
 * client SAVED_MODEL  string TENSOR VALUE  float TENSOR VALUE ...  output TENSOR
 *
 * Every input is a batch of one; "strings" is a batch of one row of one value, "int64" an integer.
 * Prints the output's numbers, one a line. Exit status 1, with TensorFlow's message, where it refuses.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

enum { MOST = 32 };

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s: %s\n", what, TF_Message(status));
    exit(1);
  }
}

static TF_Output find(TF_Graph *graph, const char *name) {
  char operation[512];
  snprintf(operation, sizeof operation, "%s", name);
  char *colon = strrchr(operation, ':');
  int index = colon ? atoi(colon + 1) : 0;
  if (colon) *colon = 0;
  TF_Output found = {TF_GraphOperationByName(graph, operation), index};
  if (!found.oper) {
    fprintf(stderr, "no operation %s\n", operation);
    exit(1);
  }
  return found;
}

static TF_Tensor *tensor(const char *kind, const char *value) {
  int64_t dims[2] = {1, 1};
  if (!strncmp(kind, "string", 6)) {
    TF_Tensor *made = TF_AllocateTensor(TF_STRING, dims, strcmp(kind, "strings") ? 1 : 2, sizeof(TF_TString));
    TF_TString *text = TF_TensorData(made);
    TF_StringInit(text);
    TF_StringCopy(text, value, strlen(value));
    return made;
  }
  if (!strcmp(kind, "int64")) {
    TF_Tensor *made = TF_AllocateTensor(TF_INT64, dims, 1, sizeof(int64_t));
    *(int64_t *)TF_TensorData(made) = strtoll(value, NULL, 10);
    return made;
  }
  TF_Tensor *made = TF_AllocateTensor(TF_FLOAT, dims, 1, sizeof(float));
  *(float *)TF_TensorData(made) = strtof(value, NULL);
  return made;
}

int main(int count, char **words) {
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, words[1], tags, 1, graph, NULL, status);
  check(status, "load");

  TF_Output inputs[MOST];
  TF_Tensor *values[MOST];
  int given = 0, next = 2;
  for (; next + 2 < count && given < MOST; next += 3, given++) {
    inputs[given] = find(graph, words[next + 1]);
    values[given] = tensor(words[next], words[next + 2]);
  }
  TF_Output output = find(graph, words[next + 1]);
  TF_Tensor *answer = NULL;
  TF_SessionRun(session, NULL, inputs, values, given, &output, &answer, 1, NULL, 0, NULL, status);
  check(status, "run");
  const float *numbers = TF_TensorData(answer);
  for (size_t each = 0; each < TF_TensorByteSize(answer) / sizeof(float); each++) printf("%.9g\n", numbers[each]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  return 0;
}
