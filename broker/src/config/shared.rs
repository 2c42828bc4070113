//! `[shared]`: how shared subscriptions (`$share/GROUP/FILTER`) pick a member for each message.

use serde::{Deserialize, Serialize};

/// How a member is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Any member.
    Random,
    /// One after the other.
    #[default]
    RoundRobin,
    /// The same one for as long as it is there.
    Sticky,
    /// One on the publisher's shard if there is any.
    Local,
    /// By the publisher's client id.
    HashClientid,
    /// By the topic.
    HashTopic,
    /// The one with the fewest waiting messages.
    LeastBacklog,
}

impl Strategy {
    /// The name used in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Random => "random",
            Strategy::RoundRobin => "round_robin",
            Strategy::Sticky => "sticky",
            Strategy::Local => "local",
            Strategy::HashClientid => "hash_clientid",
            Strategy::HashTopic => "hash_topic",
            Strategy::LeastBacklog => "least_backlog",
        }
    }
}

/// How shared subscriptions pick a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shared {
    /// For groups that are not named below.
    pub strategy: Strategy,
    /// For single groups.
    pub groups: Vec<Group>,
}

/// One group with a strategy of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    /// The group's name: `GROUP` in `$share/GROUP/FILTER`.
    pub name: String,
    /// How a member is picked.
    pub strategy: Strategy,
}
