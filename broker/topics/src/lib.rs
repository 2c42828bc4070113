//! Topic names and filters, matching, shared groups, the retained index and the interest table.
