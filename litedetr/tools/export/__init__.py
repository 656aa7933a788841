"""Detectors as files that run without this project. docs/export.md says what they hold and how they are used."""
