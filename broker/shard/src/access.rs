//! The authorize stage of the chains: who may publish and subscribe where.
//!
//! A stage answers at once or with a ticket; a ticket parks the one publish or subscribe that
//! asked, and the verdict comes as an input later. Rules come from an ACL file:
//!
//! ```text
//! # first match wins
//! default deny
//! allow user alice publish sensors/%c/#
//! allow all subscribe public/#
//! deny client probe-7 all #
//! ```

use std::collections::VecDeque;

use ringtide_topics::{Filter, matches};

/// What a client wants to do with a topic (publish) or a filter (subscribe).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish to a topic.
    Publish,
    /// Subscribe to a filter.
    Subscribe,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Client id.
    pub client_id: &'a str,
    /// User name, if one was given.
    pub username: Option<&'a str>,
}

/// Names a question whose answer is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A stage's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allow,
    /// Refused.
    Deny,
    /// Wait for the answer to this ticket.
    Park(Ticket),
}

/// The source of verdicts of one shard.
#[derive(Debug)]
pub enum Access {
    /// Everything is allowed.
    Open,
    /// By the rules of an ACL file.
    Rules(Acl),
    /// By rules, but each answer comes this many turns late: stands for a remote service in tests.
    Late(LateAccess),
}

impl Access {
    /// True if every question is answered with Allow, so that the hot path need not ask.
    pub fn is_open(&self) -> bool {
        matches!(self, Access::Open)
    }

    /// Asks.
    pub fn authorize(&mut self, who: Who<'_>, action: Action, topic: &str) -> Verdict {
        match self {
            Access::Open => Verdict::Allow,
            Access::Rules(acl) => acl.judge(who, action, topic),
            Access::Late(late) => late.ask(who, action, topic),
        }
    }

    /// Asks where no ticket can be waited for: answers at once.
    pub fn authorize_now(&self, who: Who<'_>, action: Action, topic: &str) -> Verdict {
        match self {
            Access::Open => Verdict::Allow,
            Access::Rules(acl) => acl.judge(who, action, topic),
            Access::Late(late) => late.acl.judge(who, action, topic),
        }
    }

    /// An answer that has come, once a turn until `None`.
    pub fn answer(&mut self) -> Option<(Ticket, bool)> {
        match self {
            Access::Late(late) => late.answer(),
            Access::Open | Access::Rules(_) => None,
        }
    }

    /// Ends the turn.
    pub fn end_turn(&mut self) {
        if let Access::Late(late) = self {
            late.turn += 1;
        }
    }
}

/// Rules whose verdicts are held back for some turns.
#[derive(Debug)]
pub struct LateAccess {
    acl: Acl,
    delay_turns: u64,
    turn: u64,
    next_ticket: u64,
    pending: VecDeque<(u64, Ticket, bool)>,
}

impl LateAccess {
    /// Answers by `acl`, `delay_turns` turns after the question.
    pub fn new(acl: Acl, delay_turns: u64) -> LateAccess {
        LateAccess { acl, delay_turns, turn: 0, next_ticket: 0, pending: VecDeque::new() }
    }

    fn ask(&mut self, who: Who<'_>, action: Action, topic: &str) -> Verdict {
        let allowed = self.acl.judge(who, action, topic) == Verdict::Allow;
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.pending.push_back((self.turn + self.delay_turns, ticket, allowed));
        Verdict::Park(ticket)
    }

    fn answer(&mut self) -> Option<(Ticket, bool)> {
        let &(due, ticket, allowed) = self.pending.front()?;
        if due > self.turn {
            return None;
        }
        self.pending.pop_front();
        Some((ticket, allowed))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    All,
    User(String),
    Client(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    subject: Subject,
    publish: bool,
    subscribe: bool,
    filter: String,
    /// True if the filter holds `%c` or `%u`.
    placeholders: bool,
}

/// The rules of an ACL file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    rules: Vec<Rule>,
    default_allow: bool,
}

/// A line of an ACL file that is not a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub message: String,
}

impl std::fmt::Display for AclError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl Acl {
    /// Reads an ACL file's text. Without a `default` line what no rule allows is denied.
    ///
    /// # Errors
    /// The first line that is neither a rule, the only `default` line, a comment nor blank.
    pub fn parse(text: &str) -> Result<Acl, AclError> {
        let mut acl = Acl::default();
        let mut default_line = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = index + 1;
            let fail = |message: String| AclError { line: number, message };
            let mut words = line.split_whitespace();
            if words.next() != Some("default") {
                acl.rules.push(parse_rule(line).map_err(fail)?);
                continue;
            }
            acl.default_allow = match (words.next().and_then(verdict_word), words.next()) {
                (Some(allow), None) => allow,
                _ => return Err(fail("`default` takes `allow` or `deny`".to_owned())),
            };
            if let Some(first) = default_line.replace(number) {
                let text =
                    format!("there is a `default` in line {first} already: keep one of them");
                return Err(fail(text));
            }
        }
        Ok(acl)
    }

    /// How many rules there are, the default not counted.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    fn judge(&self, who: Who<'_>, action: Action, topic: &str) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.applies(who, action, topic));
        if rule.map_or(self.default_allow, |rule| rule.allow) {
            Verdict::Allow
        } else {
            Verdict::Deny
        }
    }
}

fn verdict_word(word: &str) -> Option<bool> {
    match word {
        "allow" => Some(true),
        "deny" => Some(false),
        _ => None,
    }
}

fn parse_rule(line: &str) -> Result<Rule, String> {
    const FORM: &str =
        "expected: allow|deny  all|user NAME|client ID  publish|subscribe|all  FILTER";
    let mut rest = line;
    let mut word = || {
        let trimmed = rest.trim_start();
        let end = trimmed.find(char::is_whitespace).unwrap_or(trimmed.len());
        let (word, after) = trimmed.split_at(end);
        rest = after;
        (!word.is_empty()).then_some(word).ok_or(FORM)
    };
    let allow = verdict_word(word()?).ok_or(FORM)?;
    let subject = match word()? {
        "all" => Subject::All,
        "user" => Subject::User(word()?.to_string()),
        "client" => Subject::Client(word()?.to_string()),
        _ => return Err(FORM.to_owned()),
    };
    let (publish, subscribe) = match word()? {
        "publish" => (true, false),
        "subscribe" => (false, true),
        "all" => (true, true),
        _ => return Err(FORM.to_owned()),
    };
    let filter = rest.trim();
    if filter.is_empty() {
        return Err(FORM.to_owned());
    }
    check_filter(filter)?;
    let placeholders = filter.contains("%c") || filter.contains("%u");
    Ok(Rule { allow, subject, publish, subscribe, filter: filter.to_owned(), placeholders })
}

/// A rule whose filter is none would match nothing, or not what was meant.
fn check_filter(text: &str) -> Result<(), String> {
    let parsed = Filter::parse(text, u16::MAX).map_err(|error| {
        format!(
            "`{text}` is no topic filter: {error}; `+` stands for one whole level and `#`, at the \
             end, for all that follow: `sensors/+/state`, `sensors/#`"
        )
    })?;
    match parsed.share() {
        None => Ok(()),
        Some(_) => Err(format!(
            "rules are about the filter behind `$share/NAME/`: write `{}`",
            parsed.filter()
        )),
    }
}

impl Rule {
    fn applies(&self, who: Who<'_>, action: Action, topic: &str) -> bool {
        let right_action = match action {
            Action::Publish => self.publish,
            Action::Subscribe => self.subscribe,
        };
        let right_subject = match &self.subject {
            Subject::All => true,
            Subject::User(name) => who.username == Some(name),
            Subject::Client(id) => who.client_id == id,
        };
        right_action && right_subject && self.covers(who, action, topic)
    }

    fn covers(&self, who: Who<'_>, action: Action, topic: &str) -> bool {
        if !self.placeholders {
            return covers(&self.filter, action, topic);
        }
        // A name that holds a wildcard or a separator would widen the rule: it never matches.
        let plain = |name: &str| !name.is_empty() && !name.contains(['+', '#', '/']);
        let mut filter = self.filter.clone();
        if filter.contains("%c") {
            if !plain(who.client_id) {
                return false;
            }
            filter = filter.replace("%c", who.client_id);
        }
        if filter.contains("%u") {
            match who.username {
                Some(name) if plain(name) => filter = filter.replace("%u", name),
                _ => return false,
            }
        }
        covers(&filter, action, topic)
    }
}

/// A rule covers a topic when its filter matches, and a filter when its own takes in everything
/// that the filter can match: then the filter, read as a topic, matches level by level.
fn covers(rule: &str, action: Action, topic: &str) -> bool {
    match action {
        Action::Publish => matches(rule, topic),
        Action::Subscribe => covers_filter(rule, topic),
    }
}

fn covers_filter(rule: &str, filter: &str) -> bool {
    // Wildcards never reach $-topics: a rule that begins with one does not grant them.
    let wild = |level: &str| level == "+" || level == "#";
    if filter.starts_with('$') && rule.split('/').next().is_some_and(wild) {
        return false;
    }
    let mut rules = rule.split('/');
    let mut levels = filter.split('/');
    loop {
        match (rules.next(), levels.next()) {
            (Some("#"), _) => return true,
            (None, None) => return true,
            // `a/+` does not cover `a/#`.
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(rule), Some(level)) if rule == level && level != "#" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who<'a>(client_id: &'a str, username: Option<&'a str>) -> Who<'a> {
        Who { client_id, username }
    }

    #[test]
    fn first_match_wins_and_the_default_is_deny() {
        let acl = Acl::parse(
            "# comment\n\nallow user alice publish sensors/%c/#\ndeny all publish sensors/#\n\
             allow all subscribe public/#\nallow client probe-7 all lab/+/x y\n",
        )
        .unwrap();
        let alice = who("c1", Some("alice"));
        assert_eq!(acl.judge(alice, Action::Publish, "sensors/c1/t"), Verdict::Allow);
        assert_eq!(acl.judge(alice, Action::Publish, "sensors/c2/t"), Verdict::Deny);
        assert_eq!(acl.judge(alice, Action::Subscribe, "public/a/#"), Verdict::Allow);
        assert_eq!(acl.judge(alice, Action::Subscribe, "#"), Verdict::Deny);
        assert_eq!(acl.judge(alice, Action::Subscribe, "+/a"), Verdict::Deny);
        assert_eq!(acl.judge(who("probe-7", None), Action::Publish, "lab/3/x y"), Verdict::Allow);
        assert_eq!(acl.judge(who("x", None), Action::Publish, "other"), Verdict::Deny);
    }

    #[test]
    fn a_client_id_with_wildcards_widens_nothing() {
        let acl = Acl::parse("allow all all own/%c/#\n").unwrap();
        for id in ["#", "+", "a/b", ""] {
            assert_eq!(acl.judge(who(id, None), Action::Subscribe, "own/#"), Verdict::Deny, "{id}");
            assert_eq!(acl.judge(who(id, None), Action::Publish, "own/a/b"), Verdict::Deny, "{id}");
        }
    }

    #[test]
    fn a_rule_covers_a_filter_only_when_it_takes_in_all_of_it() {
        for (rule, filter, covered) in [
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/#", "a/#", true),
            ("a/#", "a", true),
            ("a/b", "a/+", false),
            ("#", "a/b/#", true),
            ("#", "$SYS/#", false),
            ("$SYS/#", "$SYS/broker/+", true),
        ] {
            assert_eq!(covers_filter(rule, filter), covered, "{rule} {filter}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = Acl::parse("default deny\nallow bob publish x\n").unwrap_err();
        assert_eq!(error.line, 2);
        assert!(Acl::parse("default maybe").is_err());
        assert!(Acl::parse("default").is_err());
        assert!(Acl::parse("default deny allow").is_err());
        assert!(Acl::parse("allow all publish").is_err());
    }

    #[test]
    fn there_is_one_default() {
        let error = Acl::parse("default\tdeny\nallow all all a\ndefault allow\n").unwrap_err();
        assert_eq!(error.line, 3);
        assert!(error.message.contains("line 1"), "{error}");
    }

    #[test]
    fn a_rule_must_have_a_topic_filter() {
        for filter in ["a/#/b", "sec+ret/x", "a#", "%c+/a", "$share/g/a"] {
            let text = format!("default deny\nallow all subscribe {filter}\n");
            let error = Acl::parse(&text).unwrap_err();
            assert_eq!(error.line, 2, "{error}");
        }
        for filter in ["a/+/b/#", "+", "#", "%c/%u/x-%c", "/", "$SYS/#", "a b"] {
            let acl = Acl::parse(&format!("allow all subscribe {filter}\n")).unwrap();
            assert_eq!(acl.rule_count(), 1, "{filter}");
        }
    }

    #[test]
    fn a_late_verdict_comes_after_its_turns_in_order() {
        let acl = Acl::parse("allow all publish yes").unwrap();
        let mut access = Access::Late(LateAccess::new(acl, 2));
        let first = access.authorize(who("c", None), Action::Publish, "yes");
        let second = access.authorize(who("c", None), Action::Publish, "no");
        let (Verdict::Park(first), Verdict::Park(second)) = (first, second) else {
            panic!("expected tickets");
        };
        assert_eq!(access.answer(), None);
        access.end_turn();
        access.end_turn();
        assert_eq!(access.answer(), Some((first, true)));
        assert_eq!(access.answer(), Some((second, false)));
        assert_eq!(access.answer(), None);
    }
}
