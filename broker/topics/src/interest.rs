//! The interest table: which shards may have a match for a topic.
