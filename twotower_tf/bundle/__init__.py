"""Bundles: manifest, opening, verification, and the export root with its versions."""
