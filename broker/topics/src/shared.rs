//! Shared groups: their members and the choice of one of them per message.
