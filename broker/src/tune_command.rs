//! `ringtide tune ...`: what is found of the host, what is changed of it, and the exit codes.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use ringtide_tuning::profile::BUILT_IN;
use ringtide_tuning::{
    Check, Done, IoUring, Mode, Profile, Root, Step, Survey, TuneError, Verdict, apply, revert,
};
use serde::Serialize;

use crate::args::{Look, TuneCommand};
use crate::exit::{Exit, Failure};
use crate::{drivers, preflight, program};

/// Does what was asked for.
pub(crate) fn run(command: &TuneCommand) -> Exit {
    let done = match command {
        TuneCommand::Check { look, json } => check(look, *json),
        TuneCommand::Apply { look, dry_run } => change(look, *dry_run),
        TuneCommand::Revert { root } => put_back(root),
        TuneCommand::Profile(name) => show(name),
    };
    match done {
        Ok((text, exit)) => {
            // A reader that has gone away (`ringtide tune check | head`) is no failure.
            let _ = io::stdout().write_all(text.as_bytes());
            exit
        }
        Err(failure) => program::complain(&failure),
    }
}

/// The profile of this name, or in this file.
fn profile(name: &str) -> Result<Profile, Failure> {
    let parsed = match BUILT_IN.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Profile::parse(text, name),
        None => {
            let text = fs::read_to_string(name).map_err(|error| no_profile(name, &error))?;
            Profile::parse(&text, name)
        }
    };
    parsed.map_err(|error| Failure::usage(error.to_string()))
}

fn no_profile(name: &str, error: &io::Error) -> Failure {
    let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    Failure::usage(format!(
        "profile {name}: {error}; it is neither a file nor one of {}",
        names.join(", ")
    ))
}

/// The host as a look sees it, and what io_uring is to the configured broker.
fn survey(look: &Look) -> Result<(Root, Survey, IoUring), Failure> {
    let profile = profile(&look.profile)?;
    let (_, loaded) = program::load(&look.settings)?;
    let root = Root::at(&look.root);
    let demand = preflight::demand(&loaded.config, look.connections)?;
    let survey = Survey::of(&root, &profile, &demand);
    Ok((root, survey, demand.io_uring))
}

/// The output of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    profile: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_connections: Option<u64>,
    /// The worst of all.
    verdict: Verdict,
    checks: Vec<Check>,
}

fn check(look: &Look, json: bool) -> Result<(String, Exit), Failure> {
    let (root, survey, io_uring) = survey(look)?;
    let mut checks = survey.checks();
    if root.is_host() {
        checks.extend(io_uring.weighs(tried()));
    }
    let worst = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    let exit = match worst {
        Verdict::Ok => Exit::Done,
        Verdict::Unknown | Verdict::Advice => Exit::Runtime,
        Verdict::Short => Exit::Host,
    };
    let text = if json {
        let (profile, target_connections) = (look.profile.as_str(), look.connections);
        let report = Report { profile, target_connections, verdict: worst, checks };
        serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::runtime(error.to_string()))?
            + "\n"
    } else {
        lines(&checks)
    };
    Ok((text, exit))
}

fn lines(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let _ = writeln!(text, "{:<7} {check}", check.verdict.name());
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let counts = [Verdict::Ok, Verdict::Advice, Verdict::Short, Verdict::Unknown]
        .map(|verdict| format!("{} {}", count(verdict), verdict.name()));
    let _ = writeln!(text, "{}", counts.join(", "));
    text
}

/// The one sure way to know: the driver's own try.
fn tried() -> Check {
    let (name, why) =
        ("io_uring", "tried here, by this user; filters and limits cannot hide from it");
    match drivers::probe() {
        Ok(findings) => Check::new(name, drivers::describe(&findings), "", why),
        Err(error) => {
            Check::new(name, error.to_string(), "every feature that the driver needs", why)
                .remedy("see above for what forbids it")
                .verdict(Verdict::Short)
        }
    }
}

fn change(look: &Look, dry_run: bool) -> Result<(String, Exit), Failure> {
    let (root, survey, _) = survey(look)?;
    let mode = if dry_run { Mode::DryRun } else { Mode::Change };
    let steps = apply(&root, &survey, mode).map_err(refused)?;
    let (mut text, exit) = told(&steps, if dry_run { "would change" } else { "changed" });
    let unit = |step: &&Step| step.name.contains("/systemd/") && is_change(step);
    if !dry_run && steps.iter().any(|step| unit(&step)) {
        text.push_str("then: `systemctl daemon-reload`, and restart the broker\n");
    }
    Ok((text, exit))
}

fn put_back(root: &Path) -> Result<(String, Exit), Failure> {
    let steps = revert(&Root::at(root)).map_err(refused)?;
    if steps.is_empty() {
        let text = format!(
            "nothing to put back: there is no record in {}\n",
            ringtide_tuning::ORIGINALS_FOLDER
        );
        return Ok((text, Exit::Done));
    }
    Ok(told(&steps, "put back"))
}

fn refused(error: TuneError) -> Failure {
    Failure::host(error.to_string())
}

fn is_change(step: &Step) -> bool {
    matches!(step.done, Done::Changed(_))
}

/// What became of everything: the changes and refusals, and how many there are of each.
fn told(steps: &[Step], changed: &str) -> (String, Exit) {
    let mut text = String::new();
    for Step { name, done } in steps {
        let _ = match done {
            Done::Kept => Ok(()),
            Done::Refused(why) => writeln!(text, "refused {name}: {why}"),
            Done::Changed(lines) => match lines.as_slice() {
                [line] => writeln!(text, "{changed} {name}: {line}"),
                lines => writeln!(text, "{changed} {name}:\n    {}", lines.join("\n    ")),
            },
        };
    }
    let changes = steps.iter().filter(|step| is_change(step)).count();
    let refusals = steps.iter().filter(|step| matches!(step.done, Done::Refused(_))).count();
    let kept = steps.len() - changes - refusals;
    let _ = match changes {
        0 => writeln!(text, "nothing {changed}: {kept} as wanted, {refusals} refused"),
        changes => {
            writeln!(text, "{changed}: {changes}, as wanted before: {kept}, refused: {refusals}")
        }
    };
    (text, if refusals > 0 { Exit::Runtime } else { Exit::Done })
}

fn show(name: &str) -> Result<(String, Exit), Failure> {
    match BUILT_IN.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Ok(((*text).to_owned(), Exit::Done)),
        None => {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            Err(Failure::usage(format!("no profile `{name}`: there are {}", names.join(", "))))
        }
    }
}
