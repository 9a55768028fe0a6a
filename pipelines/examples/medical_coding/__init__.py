"""Questions about ICD-10-CM codes, answered by the classification's own structure."""
