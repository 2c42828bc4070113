//! Rules of the tree that no compiler checks: which crate may use which, where `unsafe` stands,
//! how long functions, files and lines are, what things are called.
//!
//! Exceptions stand in `tidy_exceptions.txt`, each with its reason; one that is no longer needed
//! fails too. Run alone with `cargo test -p ringtide --test tidy`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;
const COLUMNS_MAX: usize = 100;

/// Which of our crates each crate may be built on. A crate that is not listed may use none.
const ARROWS: [(&str, &[&str]); 15] = [
    ("ringtide-codec", &[]),
    ("ringtide-driver", &[]),
    ("ringtide-epoll", &["driver"]),
    ("ringtide-filter", &["tls"]),
    ("ringtide-net", &["driver"]),
    ("ringtide-perf", &["codec", "driver", "net"]),
    ("ringtide-ring", &[]),
    ("ringtide-session", &["codec"]),
    ("ringtide-shard", &["codec", "driver", "filter", "ring", "session", "storage", "topics"]),
    ("ringtide-sim", &["codec", "driver", "ring", "session", "shard", "storage", "topics"]),
    ("ringtide-storage", &[]),
    ("ringtide-tls", &[]),
    ("ringtide-topics", &[]),
    ("ringtide-tuning", &[]),
    (
        "ringtide",
        &[
            "codec", "driver", "epoll", "filter", "net", "ring", "session", "shard", "storage",
            "tls", "topics", "tuning",
        ],
    ),
];

/// What the pure crates and the shard must not be built on: I/O comes to them through traits.
const IO_CRATES: [&str; 7] = ["glommio", "io-uring", "libc", "rustix", "sled", "socket2", "tokio"];
const WITHOUT_IO: [&str; 8] = [
    "ringtide-codec",
    "ringtide-driver",
    "ringtide-filter",
    "ringtide-ring",
    "ringtide-session",
    "ringtide-shard",
    "ringtide-tls",
    "ringtide-topics",
];

/// Where `unsafe` may stand.
const UNSAFE_ALLOWED: [&str; 2] = ["broker/ring/src/", "broker/net/src/uring"];

/// Name parts that say nothing, and file names that collect anything.
const EMPTY_NAMES: [&str; 5] = ["Manager", "Helper", "Helpers", "Util", "Utils"];
const EMPTY_FILES: [&str; 6] =
    ["helper.rs", "helpers.rs", "misc.rs", "types.rs", "util.rs", "utils.rs"];

/// Names that begin with `get_` in the standard library's own collections.
const STANDARD_NAMES: [&str; 2] = ["get_mut", "get_or_insert_with"];

/// One breach of a rule: `rule path[#function]`, and what is wrong.
struct Breach {
    rule: &'static str,
    place: String,
    text: String,
}

#[test]
fn crates_use_only_what_lies_below_them() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        seen.insert(name.to_owned());
        let allowed = ARROWS.iter().find(|(crate_name, _)| *crate_name == name);
        let Some((_, allowed)) = allowed else {
            wrong.push(format!("{name}: has no entry in ARROWS"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            let in_tests = dependency["kind"] == "dev";
            let ours = used == "ringtide" || used.starts_with("ringtide-");
            let below = allowed.iter().any(|part| used == format!("ringtide-{part}"));
            if ours && !below && !(in_tests && used != "ringtide") {
                wrong.push(format!("{name} must not depend on {used}"));
            }
            if WITHOUT_IO.contains(&name) && IO_CRATES.contains(&used) && !in_tests {
                wrong.push(format!("{name} must not depend on {used}: it does no I/O"));
            }
        }
    }
    for (name, _) in ARROWS {
        assert!(seen.contains(name), "ARROWS names {name}, which is no member of the workspace");
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_tree_keeps_to_its_rules() {
    let mut breaches = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        check_text(&path, &text, &mut breaches);
        if path.ends_with(".rs") {
            check_rust(&path, &text, &mut breaches);
        }
    }
    let exceptions = exceptions();
    let mut wrong: Vec<String> = breaches
        .iter()
        .filter(|breach| !exceptions.iter().any(|e| e.0 == breach.rule && e.1 == breach.place))
        .map(|breach| format!("{} {}: {}", breach.rule, breach.place, breach.text))
        .collect();
    for (rule, place) in &exceptions {
        if !breaches.iter().any(|breach| breach.rule == rule && breach.place == *place) {
            wrong.push(format!("tidy_exceptions.txt: `{rule} {place}` is no longer needed"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_crate_without_unsafe_forbids_it() {
    let mut wrong = Vec::new();
    for package in metadata()["packages"].as_array().unwrap() {
        for target in package["targets"].as_array().unwrap() {
            let kinds = target["kind"].as_array().unwrap();
            if !kinds.iter().any(|kind| kind == "lib" || kind == "bin") {
                continue;
            }
            let path = target["src_path"].as_str().unwrap();
            let relative = Path::new(path).strip_prefix(root()).unwrap().display().to_string();
            let may = ["broker/ring/", "broker/net/"].iter().any(|part| relative.starts_with(part));
            let text = fs::read_to_string(path).unwrap();
            if !may && !text.contains("#![forbid(unsafe_code)]") {
                wrong.push(format!("{relative}: lacks #![forbid(unsafe_code)]"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> serde_json::Value {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Paths of all sources, from the root of the repository.
fn sources() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["broker", "perf", "scripts", "storage", "tuning"] {
        walk(&root().join(folder), &mut found);
    }
    found.sort();
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let extension = path.extension().map(|e| e.to_string_lossy().into_owned());
        let generated = ["target", "node_modules", "corpus", "artifacts", "results", "__pycache__"];
        if path.is_dir() && !name.starts_with('.') && !generated.contains(&name.as_str()) {
            walk(&path, found);
        } else if matches!(extension.as_deref(), Some("rs" | "sh" | "py" | "js" | "mjs" | "cjs")) {
            found.push(path.strip_prefix(root()).unwrap().display().to_string());
        }
    }
}

/// The exceptions as (rule, place).
fn exceptions() -> Vec<(String, String)> {
    let path = root().join("broker/tests/tidy_exceptions.txt");
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let (rule, place) = (words.next().unwrap(), words.next().unwrap_or_default());
            let reason = words.next().unwrap_or_default().trim();
            assert!(reason.len() >= 10, "tidy_exceptions.txt: `{line}` gives no reason");
            (rule.to_owned(), place.to_owned())
        })
        .collect()
}

/// Rules that need only the lines of a file.
fn check_text(path: &str, text: &str, breaches: &mut Vec<Breach>) {
    let mut add = |rule, text| breaches.push(Breach { rule, place: path.to_owned(), text });
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        add("file", format!("{lines} lines, at most {FILE_LINES_MAX}"));
    }
    if let Some((number, line)) =
        text.lines().enumerate().find(|(_, line)| line.chars().count() > COLUMNS_MAX)
    {
        let columns = line.chars().count();
        add("column", format!("line {} has {columns} columns, at most {COLUMNS_MAX}", number + 1));
    }
    // Spelt in halves, so that this file does not find itself.
    for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")] {
        if let Some(number) = text.lines().position(|line| line.contains(mark)) {
            add("mark", format!("line {} leaves a {mark}", number + 1));
        }
    }
}

/// Rules that need the syntax of a Rust file.
fn check_rust(path: &str, text: &str, breaches: &mut Vec<Breach>) {
    let mut add = |rule, text: &str| {
        breaches.push(Breach { rule, place: path.to_owned(), text: text.to_owned() });
    };
    // Unit tests in a file of their own are described by their module; fuzz targets are four lines.
    let own = !path.ends_with("tests.rs") && !path.starts_with("broker/fuzz/");
    if own && !text.trim_start().starts_with("//!") {
        add("head", "does not begin with what it owns (`//!`)");
    }
    if EMPTY_FILES.contains(&path.rsplit('/').next().unwrap()) {
        add("name", "a file's name says what is in it");
    }
    let file = match syn::parse_file(text) {
        Ok(file) => file,
        Err(error) => return add("syntax", &error.to_string()),
    };
    let allowed = UNSAFE_ALLOWED.iter().any(|prefix| path.starts_with(prefix));
    if !allowed && text.contains("unsafe") && has_unsafe(text.parse().unwrap()) {
        add("unsafe", "unsafe outside the lanes and the ring driver");
    }
    Functions { path, breaches }.visit_file(&file);
}

/// Whether the keyword stands anywhere in code; comments and strings do not count.
fn has_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "unsafe",
        TokenTree::Group(group) => has_unsafe(group.stream()),
        _ => false,
    })
}

/// Looks at every function and every named type of a file.
struct Functions<'a> {
    path: &'a str,
    breaches: &'a mut Vec<Breach>,
}

impl Functions<'_> {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let name = signature.ident.to_string();
        let place = format!("{}#{name}", self.path);
        let lines = block.span().end().line - signature.span().start().line + 1;
        if lines > FUNCTION_LINES_MAX {
            let text = format!("{lines} lines, at most {FUNCTION_LINES_MAX}");
            self.breaches.push(Breach { rule: "function", place: place.clone(), text });
        }
        if name.starts_with("get_") && !STANDARD_NAMES.contains(&name.as_str()) {
            let text = "a getter is named after what it returns".to_owned();
            self.breaches.push(Breach { rule: "name", place, text });
        }
    }

    fn named(&mut self, name: &syn::Ident) {
        let name = name.to_string();
        if EMPTY_NAMES.iter().any(|part| name.ends_with(part)) {
            let place = format!("{}#{name}", self.path);
            let text = "the name says nothing".to_owned();
            self.breaches.push(Breach { rule: "name", place, text });
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.named(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.named(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.named(&item.ident);
        visit::visit_item_trait(self, item);
    }
}

#[test]
fn the_rules_find_what_breaks_them() {
    let long = format!("//! Head.\nfn long() {{\n{}}}\n", "    f();\n".repeat(FUNCTION_LINES_MAX));
    let rules = |path: &str, text: &str| {
        let mut breaches = Vec::new();
        check_text(path, text, &mut breaches);
        check_rust(path, text, &mut breaches);
        let name = |breach: &Breach| format!("{} {}", breach.rule, breach.place);
        breaches.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(rules("a.rs", &long), ["function a.rs#long"]);
    assert_eq!(rules("a.rs", "fn f() {}\n"), ["head a.rs"]);
    let text = "//! Head.\nfn get_it() { unsafe { f() } } // unsafe\nstruct ConnManager;\n";
    assert_eq!(rules("a.rs", text), ["unsafe a.rs", "name a.rs#get_it", "name a.rs#ConnManager"]);
    let text = "//! Head.\nfn f() { unsafe { f() } }\n";
    assert!(rules("broker/ring/src/lane.rs", text).is_empty());
    assert!(rules("a.rs", "//! unsafe\nconst A: &str = \"unsafe\";\n").is_empty());
    assert_eq!(rules("x/utils.rs", "//! Head.\n"), ["name x/utils.rs"]);
    assert_eq!(rules("a.rs", &format!("//! {}\n", "x".repeat(97))), ["column a.rs"]);
    assert_eq!(rules("a.rs", &"//! Head.\n".repeat(FILE_LINES_MAX + 1)), ["file a.rs"]);
    let text = concat!("//! Head.\n// TO", "DO: later\n");
    assert_eq!(rules("a.rs", text), ["mark a.rs"]);
}
