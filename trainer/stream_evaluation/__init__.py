"""How a bundle behaves on streams that do not end: measured, as data, as tables and as plots."""
