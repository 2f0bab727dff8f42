"""From features to SRCC tables: ridge regression, protocol and reports."""
