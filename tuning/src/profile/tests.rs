use proptest::prelude::*;

use super::*;

fn problems(text: &str) -> Vec<String> {
    let error = Profile::parse(text, "p.toml").expect_err("a problem");
    error.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn the_built_in_profiles_can_be_used_and_have_their_names() {
    for (name, text) in BUILT_IN {
        let profile = Profile::parse(text, name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(profile.name, name);
        assert!(profile.sysctl.len() > 10 && profile.nofile.is_some(), "{name}");
        assert_eq!(profile.cost, Cost::default(), "{name}");
    }
}

/// Every line of the source's list, as it was published.
#[test]
fn the_source_s_list_stands_line_by_line() {
    let profile = Profile::parse(SOURCE_E, "source-e").unwrap();
    let list: [(&str, &[u64]); 20] = [
        ("fs.file-max", &[2_097_152]),
        ("fs.nr_open", &[2_097_152]),
        ("net.core.somaxconn", &[32_768]),
        ("net.ipv4.tcp_max_syn_backlog", &[16_384]),
        ("net.core.netdev_max_backlog", &[16_384]),
        ("net.ipv4.ip_local_port_range", &[1000, 65_535]),
        ("net.core.rmem_default", &[262_144]),
        ("net.core.wmem_default", &[262_144]),
        ("net.core.rmem_max", &[16_777_216]),
        ("net.core.wmem_max", &[16_777_216]),
        ("net.core.optmem_max", &[16_777_216]),
        ("net.ipv4.tcp_rmem", &[1024, 4096, 16_777_216]),
        ("net.ipv4.tcp_wmem", &[1024, 4096, 16_777_216]),
        ("net.nf_conntrack_max", &[1_000_000]),
        ("net.netfilter.nf_conntrack_max", &[1_000_000]),
        ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", &[30]),
        ("net.ipv4.tcp_max_tw_buckets", &[1_048_576]),
        ("net.ipv4.tcp_fin_timeout", &[15]),
        ("fs.file-max at boot", &[1_048_576]),
        ("nofile", &[1_048_576]),
    ];
    for (key, value) in list {
        let found = match key {
            "nofile" => profile.nofile.as_ref().unwrap().value.clone(),
            "fs.file-max at boot" => {
                profile.sysctl("fs.file-max").unwrap().at_boot.clone().unwrap()
            }
            _ => profile.sysctl(key).unwrap_or_else(|| panic!("{key}")).value.clone(),
        };
        assert_eq!(found, value, "{key}");
    }
    assert_eq!(profile.sysctl.len(), 18);
    let notes: String = profile.notes.iter().map(|note| note.line.as_str()).collect();
    for word in ["process_limit=2097152", "max_ports=1048576", "acceptors=64", "0.0.0.0:1883"] {
        assert!(notes.contains(word), "{word}");
    }
}

#[test]
fn a_slip_is_named_with_its_line_and_what_was_meant() {
    let text = "name = \"x\"\n\n[sysctl.\"net.core.somaxcon\"]\nis = 1\nwhy = \"y\"\n";
    assert_eq!(
        problems(text),
        ["p.toml:3: unknown setting `net.core.somaxcon`: did you mean `net.core.somaxconn`?"]
    );
    let text = "name = \"x\"\n[sysctl.\"vm.swappiness\"]\nat_mots = 1\nwhy = \"y\"\n[lmits]\n";
    assert_eq!(
        problems(text),
        [
            "p.toml:3: unknown key `at_mots`: did you mean `at_most`?",
            "p.toml:5: unknown key `lmits`: did you mean `limits`?",
        ]
    );
    let text = "name = \"x\"\n[host.govenor]\nis = \"performance\"\nwhy = \"y\"\n";
    assert_eq!(problems(text), ["p.toml:2: unknown key `govenor`: did you mean `governor`?"]);
    let found = problems("name = \"x\"\n[sysctl.\"kernel.hostname\"]\nis = 1\nwhy = \"y\"\n");
    assert!(found[0].contains("/etc/sysctl.d"), "{found:?}");
}

#[test]
fn impossible_values_are_named_with_what_is_possible() {
    let rule = |key: &str, value: &str| {
        problems(&format!("name = \"x\"\n[sysctl.\"{key}\"]\nwhy = \"y\"\nis = {value}\n"))
    };
    let port = "net.ipv4.ip_local_port_range";
    assert_eq!(
        rule(port, "[1, 70000]"),
        [format!("p.toml:4: `{port}` must be within 1 and 65535")]
    );
    assert_eq!(rule(port, "[9000, 8000]"), [format!("p.toml:4: `{port}` must be ascending")]);
    assert_eq!(rule(port, "5"), [format!("p.toml:4: `{port}` must be a list of 2 whole numbers")]);
    let swap = "vm.swappiness";
    assert_eq!(rule(swap, "-1"), [format!("p.toml:4: `{swap}` must be within 0 and 200")]);
    assert_eq!(rule(swap, "\"few\""), [format!("p.toml:4: `{swap}` must be a whole number")]);
    let text = "name = \"x\"\n[sysctl.\"fs.nr_open\"]\nis = 1024\nwhy = \"y\"\n\
                [limits.nofile]\nis = 2048\nwhy = \"y\"\n";
    assert_eq!(problems(text), ["p.toml:5: `nofile` is 2048, above `fs.nr_open`, which is 1024"]);
    let text = "name = \"x\"\n[host.irqs]\nis = \"spred\"\nwhy = \"y\"\n";
    assert_eq!(problems(text), ["p.toml:3: must be one of spread, not `spred`"]);
}

#[test]
fn a_rule_is_one_bound_and_a_reason() {
    let text = "name = \"x\"\n[sysctl.\"vm.swappiness\"]\nis = 1\nat_most = 2\nwhy = \"y\"\n";
    assert!(problems(text)[0].contains("one of `is`, `at_least`, `at_most`"));
    let text = "name = \"x\"\n[sysctl.\"vm.swappiness\"]\nis = 1\n";
    assert!(problems(text)[0].starts_with("p.toml:2: `vm.swappiness` gives no reason"));
    assert_eq!(problems(""), ["p.toml:1: lacks `name = \"...\"`"]);
    assert!(problems("name = \"x\"\n[sysctl\n")[0].starts_with("p.toml:2: "));
    assert_eq!(problems("name = \"x\"\nsysctl = 3\n"), ["p.toml:2: must be a table"]);
}

#[test]
fn numbers_may_have_underscores_and_other_bases() {
    let text = "name = \"x\"\n[sysctl.\"fs.nr_open\"]\nis = 1_048_576\nwhy = \"y\"\n\
                [sysctl.\"fs.file-max\"]\nis = 0x200000\nwhy = \"y\"\n";
    let profile = Profile::parse(text, "p.toml").unwrap();
    assert_eq!(profile.sysctl("fs.nr_open").unwrap().value, [1 << 20]);
    assert_eq!(profile.sysctl("fs.file-max").unwrap().value, [1 << 21]);
}

fn rules() -> impl Strategy<Value = (Rule, Vec<u64>)> {
    let bound = prop_oneof![Just(Bound::Is), Just(Bound::AtLeast), Just(Bound::AtMost)];
    let values = prop::collection::vec((0_u64..9, 0_u64..9), 1..4);
    (bound, values).prop_map(|(bound, values)| {
        let (value, found) = values.into_iter().unzip();
        let rule = Rule { bound, value, at_boot: None, optional: false, why: "y".into() };
        (rule, found)
    })
}

proptest! {
    /// What a rule makes of a value is as wanted, and is made of it only once.
    #[test]
    fn a_rule_s_target_meets_it((rule, found) in rules()) {
        let target = rule.target(&found);
        prop_assert!(rule.met(&target));
        prop_assert_eq!(rule.target(&target), target.clone());
        prop_assert_eq!(rule.met(&found), target == found);
    }

    /// No text panics.
    #[test]
    fn any_text_is_read_or_refused(text in "[a-z\\[\\]=\"0-9 .\n_-]{0,80}") {
        if let Err(error) = Profile::parse(&text, "p.toml") {
            prop_assert!(!error.problems.is_empty());
        }
    }
}
