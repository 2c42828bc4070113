//! The text of a profile, read with the line of every mistake.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Bound, Cost, HostItem, HostRule, Note, Problem, Profile, Rule};
use crate::catalogue::{self, Form};

/// What may stand in a profile, and in a section of rules.
const KEYS: [&str; 7] = ["name", "ports", "sysctl", "limits", "host", "cost", "note"];
const RULE_KEYS: [&str; 6] = ["is", "at_least", "at_most", "at_boot", "optional", "why"];
const LIMITS: [&str; 2] = ["nofile", "memlock"];
const COSTS: [&str; 4] = ["user_bytes", "kernel_bytes", "queued_pages", "reconnect_s"];
const BOUNDS: [(&str, Bound); 3] =
    [("is", Bound::Is), ("at_least", Bound::AtLeast), ("at_most", Bound::AtMost)];

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;
type Item<'a> = Spanned<DeValue<'a>>;

/// See [`Profile::parse`].
pub(super) fn parse(text: &str) -> Result<Profile, Vec<Problem>> {
    let mut reading = Reading { text, problems: Vec::new() };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reading.wrong(at, error.message().trim().replace('\n', ", "));
            return Err(reading.problems);
        }
    };
    let profile = reading.profile(table.get_ref());
    let mut problems = reading.problems;
    problems.sort_by_key(|problem| problem.line);
    match profile {
        Some(profile) if problems.is_empty() => Ok(profile),
        _ => Err(problems),
    }
}

struct Reading<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn wrong(&mut self, offset: usize, text: impl Into<String>) {
        let line = self.text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1;
        self.problems.push(Problem { line, text: text.into() });
    }

    fn profile(&mut self, table: &DeTable<'_>) -> Option<Profile> {
        let mut profile = Profile {
            name: String::new(),
            ports: Vec::new(),
            sysctl: Vec::new(),
            nofile: None,
            memlock: None,
            host: Vec::new(),
            cost: Cost::default(),
            notes: Vec::new(),
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "name" => profile.name = self.text(value).unwrap_or_default(),
                "ports" => profile.ports = self.ports(value),
                "sysctl" => self.each(value, |own, key, value| {
                    let rule = own.sysctl(key, value)?;
                    profile.sysctl.push((key.get_ref().to_string(), rule));
                    Some(())
                }),
                "limits" => self.limits(value, &mut profile),
                "host" => self.each(value, |own, key, value| {
                    profile.host.push(own.host(key, value)?);
                    Some(())
                }),
                "cost" => self.cost(value, &mut profile.cost),
                "note" => profile.notes = self.notes(value),
                _ => self.unknown(key, &KEYS),
            }
        }
        if profile.name.is_empty() && self.problems.is_empty() {
            self.wrong(0, "lacks `name = \"...\"`");
        }
        self.limit_fits(&profile, table);
        Some(profile)
    }

    /// A key that does not exist, with what was probably meant.
    fn unknown(&mut self, key: &Key<'_>, known: &[&str]) {
        let name = key.get_ref().as_ref();
        let hint = match catalogue::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.wrong(key.span().start, format!("unknown key `{name}`: {hint}"));
    }

    /// Does something with every key of a table.
    fn each(
        &mut self,
        value: &Item<'_>,
        mut with: impl FnMut(&mut Self, &Key<'_>, &Item<'_>) -> Option<()>,
    ) {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (key, value) in table {
                    // What went wrong has been noted; the others are looked at all the same.
                    let _ = with(self, key, value);
                }
            }
            _ => self.wrong(value.span().start, "must be a table"),
        }
    }

    fn sysctl(&mut self, key: &Key<'_>, value: &Item<'_>) -> Option<Rule> {
        let name = key.get_ref().as_ref();
        let Some(form) = catalogue::setting(name) else {
            let hint = match catalogue::nearest(name, catalogue::names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "a profile names only settings that concern the broker; put others into \
                         a file of your own in /etc/sysctl.d"
                    .to_owned(),
            };
            self.wrong(key.span().start, format!("unknown setting `{name}`: {hint}"));
            return None;
        };
        self.rule(key, value, form)
    }

    fn limits(&mut self, value: &Item<'_>, profile: &mut Profile) {
        self.each(value, |own, key, value| {
            let (place, range) = match key.get_ref().as_ref() {
                "nofile" => (&mut profile.nofile, 64..=0x3fff_ffc0),
                "memlock" => (&mut profile.memlock, 1 << 16..=1 << 50),
                _ => {
                    own.unknown(key, &LIMITS);
                    return None;
                }
            };
            *place = Some(own.rule(key, value, &Form { count: 1, range })?);
            Some(())
        });
    }

    /// A limit above what the profile itself makes of `fs.nr_open` could not be set.
    fn limit_fits(&mut self, profile: &Profile, table: &DeTable<'_>) {
        let most = profile.sysctl("fs.nr_open").and_then(|rule| rule.value.first().copied());
        let limit = profile.nofile.as_ref().and_then(|rule| rule.value.first().copied());
        if let (Some(most), Some(limit)) = (most, limit)
            && limit > most
        {
            let at = place(table, &["limits", "nofile"]);
            let text = format!("`nofile` is {limit}, above `fs.nr_open`, which is {most}");
            self.wrong(at, text);
        }
    }

    /// A table with one of `is`, `at_least`, `at_most`, and `why`.
    fn rule(&mut self, key: &Key<'_>, value: &Item<'_>, form: &Form) -> Option<Rule> {
        let name = key.get_ref().clone();
        let before = self.problems.len();
        let mut given: Vec<(Bound, Vec<u64>)> = Vec::new();
        let mut rule = Rule {
            bound: Bound::Is,
            value: Vec::new(),
            at_boot: None,
            optional: false,
            why: String::new(),
        };
        self.each(value, |own, key, value| {
            let word = key.get_ref().as_ref();
            if let Some((_, bound)) = BOUNDS.iter().find(|(name, _)| *name == word) {
                given.push((*bound, own.numbers(&name, value, form)?));
                return Some(());
            }
            match word {
                "at_boot" => rule.at_boot = Some(own.numbers(&name, value, form)?),
                "optional" => rule.optional = own.truth(value)?,
                "why" => rule.why = own.text(value)?,
                _ => own.unknown(key, &RULE_KEYS),
            }
            Some(())
        });
        if self.problems.len() > before {
            return None;
        }
        let at = key.span().start;
        if given.len() != 1 {
            self.wrong(at, format!("`{name}` must have one of `is`, `at_least`, `at_most`"));
        }
        if rule.why.trim().is_empty() {
            self.wrong(at, format!("`{name}` gives no reason: add `why = \"...\"`"));
        }
        let (bound, value) = given.pop()?;
        (self.problems.len() == before).then_some(Rule { bound, value, ..rule })
    }

    fn host(&mut self, key: &Key<'_>, value: &Item<'_>) -> Option<HostRule> {
        let name = key.get_ref().as_ref();
        let Some((item, _, words)) = HostItem::ALL.iter().find(|(_, known, _)| *known == name)
        else {
            self.unknown(key, &HostItem::ALL.map(|(_, known, _)| known));
            return None;
        };
        let mut rule = HostRule { item: *item, is: String::new(), why: String::new() };
        self.each(value, |own, key, value| {
            match key.get_ref().as_ref() {
                "is" => rule.is = own.word(value, words)?,
                "why" => rule.why = own.text(value)?,
                _ => own.unknown(key, &["is", "why"]),
            }
            Some(())
        });
        if rule.why.trim().is_empty() {
            let text = format!("`{name}` gives no reason: add `why = \"...\"`");
            self.wrong(key.span().start, text);
        }
        Some(rule)
    }

    fn cost(&mut self, value: &Item<'_>, cost: &mut Cost) {
        self.each(value, |own, key, value| {
            let name = key.get_ref().as_ref();
            let (place, range) = match name {
                "user_bytes" => (&mut cost.user_bytes, 1..=1 << 30),
                "kernel_bytes" => (&mut cost.kernel_bytes, 1..=1 << 30),
                "queued_pages" => (&mut cost.queued_pages, 0..=1 << 20),
                "reconnect_s" => (&mut cost.reconnect_s, 1..=86_400),
                _ => {
                    own.unknown(key, &COSTS);
                    return None;
                }
            };
            *place = *own.numbers(name, value, &Form { count: 1, range })?.first()?;
            Some(())
        });
    }

    fn notes(&mut self, value: &Item<'_>) -> Vec<Note> {
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(value.span().start, "must be `[[note]]` tables");
            return Vec::new();
        };
        let note = |item: &Item<'_>| {
            let mut note = Note { line: String::new(), answer: String::new() };
            self.each(item, |own, key, value| {
                match key.get_ref().as_ref() {
                    "line" => note.line = own.text(value)?,
                    "answer" => note.answer = own.text(value)?,
                    _ => own.unknown(key, &["line", "answer"]),
                }
                Some(())
            });
            note
        };
        items.iter().map(note).collect()
    }

    fn ports(&mut self, value: &Item<'_>) -> Vec<u16> {
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(value.span().start, "`ports` must be a list such as [1883, 8883]");
            return Vec::new();
        };
        let form = Form { count: 1, range: 1..=65_535 };
        let ports = items.iter().filter_map(|item| self.numbers("ports", item, &form));
        ports.flatten().filter_map(|port| u16::try_from(port).ok()).collect()
    }

    fn text(&mut self, value: &Item<'_>) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) if !text.contains('\n') => Some(text.to_string()),
            _ => {
                self.wrong(value.span().start, "must be a text of one line, in quotes");
                None
            }
        }
    }

    fn word(&mut self, value: &Item<'_>, words: &[&str]) -> Option<String> {
        let text = self.text(value)?;
        if words.contains(&text.as_str()) {
            return Some(text);
        }
        let text = format!("must be one of {}, not `{text}`", words.join(", "));
        self.wrong(value.span().start, text);
        None
    }

    fn truth(&mut self, value: &Item<'_>) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            _ => {
                self.wrong(value.span().start, "must be true or false");
                None
            }
        }
    }

    /// One number, or a list of as many as the setting has.
    fn numbers(&mut self, name: &str, value: &Item<'_>, form: &Form) -> Option<Vec<u64>> {
        let whole = |item: &Item<'_>| match item.get_ref() {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let found: Option<Vec<i128>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().map(whole).collect(),
            _ => whole(value).map(|number| vec![number]),
        };
        let at = value.span().start;
        let (first, last) = (*form.range.start(), *form.range.end());
        let Some(found) = found.filter(|found| found.len() == form.count) else {
            let shape = match form.count {
                1 => "a whole number".to_owned(),
                count => format!("a list of {count} whole numbers"),
            };
            self.wrong(at, format!("`{name}` must be {shape}"));
            return None;
        };
        let fitting = |number: &i128| {
            u64::try_from(*number).ok().filter(|number| form.range.contains(number))
        };
        let Some(values) = found.iter().map(fitting).collect::<Option<Vec<u64>>>() else {
            let text = format!("`{name}` must be within {first} and {last}");
            self.wrong(at, text);
            return None;
        };
        if !values.is_sorted() {
            self.wrong(at, format!("`{name}` must be ascending"));
            return None;
        }
        Some(values)
    }
}

/// The offset of a key within tables.
fn place(table: &DeTable<'_>, path: &[&str]) -> usize {
    let Some((name, rest)) = path.split_first() else { return 0 };
    let found = table.iter().find(|(key, _)| key.get_ref().as_ref() == *name);
    match found.map(|(key, value)| (key, value.get_ref())) {
        Some((_, DeValue::Table(inner))) if !rest.is_empty() => place(inner, rest),
        Some((key, _)) => key.span().start,
        None => 0,
    }
}
