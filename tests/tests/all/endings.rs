//! What each side is told when something ends: the table of ARCHITECTURE.md, a test for each row.
