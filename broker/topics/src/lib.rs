//! Topic names and filters, matching, shared groups, the retained index and the interest table.
//!
//! Pure: no socket, clock, thread or store. Whatever a peer sent comes in as text that the codec
//! has found to be UTF-8 without U+0000; everything else about it is judged here, with typed
//! errors.
#![forbid(unsafe_code)]

pub mod filter;
pub mod hash;
mod index;
pub mod interest;
mod list;
pub mod matching;
pub mod name;
mod postings;
pub mod retained;
mod shape_set;
pub mod shapes;
pub mod shared;
mod slab;
pub mod table;
mod text;
mod trie;

pub use filter::{Filter, matches};
pub use hash::{seed_hashes, topic_hash};
pub use matching::{Hit, MatchScratch};
pub use name::{TopicError, valid_name};
pub use retained::Retained;
pub use shapes::{InterestKey, Levels, Shape, interest_key, key_for_topic};
pub use table::{FilterId, Subscribed, Subscription, Table, Unsubscribed};

/// A tenant. 0 is the default tenant; the same topic in two tenants is two topics.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// A shard's own number of a session. Numbers may be used again after a session has gone.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionRef(pub u32);
