//! Every mistake that a configuration can have, and what is said to it.

use std::io::Write as _;

use super::*;

/// What is said to a text.
fn said(text: &str) -> String {
    parse("uplinkd.toml", text).unwrap_err().to_string()
}

/// An uplink with these further lines.
fn with(lines: &str) -> String {
    format!("[[uplink]]\nname = \"dpu\"\nmatch = {{ pci = \"0000:03:00.0\" }}\n{lines}\n")
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(parse("f", "").unwrap(), Policy::default());
    assert_eq!(parse("f", "# only a comment\n").unwrap(), Policy::default());
}

#[test]
fn everything_said_is_understood() {
    let text = r#"
mode = "observe"
patience = "300ms"
return_after = "2m"
boot_wait = "0s"
preempt = "boot"
placement = "table"
path_marks = 0x3f00
within_tier = "multipath"
close_sockets = "on"

[[uplink]]
name = "dpu"
match = { pci = "0000:03:00.0" }
tier = 1
weight = 256
gateway = ["10.0.120.1", "fe80::1"]
targets = [{ icmp = "10.0.0.53" }, { tcp = "10.0.0.10:6443" }, { tcp = "[2001:db8::1]:443" }]
need = 1
interval = "10s"

[[uplink]]
name = "management"
match = { interface = "eno*" }
tier = 0x2

[[uplink]]
name = "spare"
match.mac = "b8:3f:d2:00:00:01"
"#;
    let policy = parse("f", text).unwrap();
    let spare = UplinkPolicy {
        name: "spare".into(),
        matching: Match::Mac("b8:3f:d2:00:00:01".parse().unwrap()),
        tier: 1,
        weight: Weight::ONE,
        gateways: vec![],
        targets: vec![],
        need: Need::Any,
        interval: DEFAULT_INTERVAL,
    };
    let dpu = UplinkPolicy {
        name: "dpu".into(),
        matching: Match::Pci("0000:03:00.0".parse().unwrap()),
        weight: Weight::MAX,
        gateways: vec!["10.0.120.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        targets: vec![
            Target::Icmp("10.0.0.53".parse().unwrap()),
            Target::Tcp("10.0.0.10:6443".parse().unwrap()),
            Target::Tcp("[2001:db8::1]:443".parse().unwrap()),
        ],
        need: Need::AtLeast(1),
        interval: Duration::from_secs(10),
        ..spare.clone()
    };
    let management = UplinkPolicy {
        name: "management".into(),
        matching: Match::Interface("eno*".into()),
        tier: 2,
        ..spare.clone()
    };
    let expected = Policy {
        mode: Mode::Observe,
        patience: Duration::from_millis(300),
        return_after: Duration::from_secs(120),
        boot_wait: Duration::ZERO,
        preempt: Preempt::Boot,
        placement: Placement::Table,
        path_rules: PathRules::On(0x3f00),
        within_tier: WithinTier::Multipath,
        close_sockets: true,
        uplinks: vec![dpu, management, spare],
    };
    assert_eq!(policy, expected);
}

#[test]
fn the_example_is_valid() {
    let example = include_str!("../../../../packaging/uplinkd.toml");
    assert_eq!(parse("packaging/uplinkd.toml", example).unwrap(), Policy::default());
    // What is commented out in it is right, too.
    let open: String = example
        .lines()
        .map(|line| line.strip_prefix("#:").unwrap_or(line))
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    assert_ne!(parse("packaging/uplinkd.toml", &open).unwrap(), Policy::default());
}

#[test]
fn a_mistake_is_shown_whole() {
    assert_eq!(
        said("mode = \"steer\"\n\tpatience = \"100ms\" # too fast\n"),
        "`patience` is out of bounds\n\
         \u{20}--> uplinkd.toml:2:13\n\
         \u{20} |\n\
         2 | \tpatience = \"100ms\" # too fast\n\
         \u{20} | \t           ^^^^^^^\n\
         \u{20} = help: write a time from \"200ms\" to \"60s\""
    );
    assert_eq!(
        said("[[uplink]]\nname = \"dpu\"\nmatch = { pci = \"0000:03:00.0\" }\nteir = 1\n"),
        "unknown key `teir`\n\
         \u{20}--> uplinkd.toml:4:1\n\
         \u{20} |\n\
         4 | teir = 1\n\
         \u{20} | ^^^^\n\
         \u{20} = help: the keys here are `name`, `match`, `tier`, `weight`, `gateway`, `targets`, \
         `need` and `interval`"
    );
    assert_eq!(
        said("\n\n\n\n\n\n\n\n\npatience = 1s\n"),
        "string values must be quoted, expected literal string\n\
         \u{20} --> uplinkd.toml:10:12\n\
         \u{20}  |\n\
         10 | patience = 1s\n\
         \u{20}  |            ^^\n\
         \u{20}  = help: correct the TOML here; its rules are at https://toml.io/en/v1.1.0"
    );
}

#[test]
fn every_mistake_is_found_where_it_is() {
    let long = "x".repeat(128);
    let long_name = with("").replace("dpu", &"x".repeat(65));
    let targets: String = (1..=17).map(|n| format!("{{ icmp = \"10.0.0.{n}\" }},")).collect();
    let many_uplinks: String = (0..65)
        .map(|n| format!("[[uplink]]\nname = \"{n}\"\nmatch = {{ interface = \"e{n}\" }}\n"))
        .collect();
    // The text; what is said; line and column; the remedy.
    #[rustfmt::skip]
    let cases: &[(String, &str, &str, &str)] = &[
        // TOML itself.
        ("mode = ".into(), "string values must be quoted", "1:8", "correct the TOML"),
        ("mode = \"steer".into(), "invalid basic string", "1:14", "correct the TOML"),
        ("mode = \"steer\"\nmode = \"steer\"".into(), "duplicate key", "2:1", "correct the TOML"),
        ("[uplink".into(), "unclosed table", "1:8", "correct the TOML"),
        // Keys.
        ("patince = \"1s\"".into(), "unknown key `patince`", "1:1", "`mode`, `patience`,"),
        ("[daemon]\nx = 1".into(), "unknown key `daemon`", "1:2", "the keys here are"),
        (with("\"a\\nb\" = 1"), "unknown key `a\\nb`", "4:1", "`tier`"),
        (with("patience = \"2s\""), "unknown key `patience`", "4:1", "before the first [[uplink]]"),
        (with("interface = \"port\""), "unknown key `interface`", "4:1", "match = { interface = … }"),
        (with("match.x = 1"), "cannot extend value", "4:1", "correct the TOML"),
        // Weights.
        (with("weight = 2"), "a weight has no meaning here", "4:10", "add within_tier = \"multipath\""),
        (format!("within_tier = \"multipath\"\n{}", with("weight = 0")), "`weight` is out of bounds", "5:10", "from 1 to 256"),
        (format!("within_tier = \"multipath\"\n{}", with("weight = 257")), "`weight` is out of bounds", "5:10", "from 1 to 256"),
        // Words.
        ("within_tier = \"all\"".into(), "`within_tier` cannot be \"all\"", "1:15", "\"first\", \"multipath\""),
        ("mode = 1".into(), "`mode` must be text, this is a whole number", "1:8", "\"steer\", \"observe\""),
        ("mode = \"Steer\"".into(), "`mode` cannot be \"Steer\"", "1:8", "\"steer\", \"observe\""),
        ("preempt = true".into(), "`preempt` must be text, this is true or false", "1:11", "\"always\", \"boot\", \"never\""),
        ("preempt = \"\"".into(), "`preempt` cannot be \"\"", "1:11", "\"always\", \"boot\", \"never\""),
        ("path_rules = true".into(), "`path_rules` must be text, this is true or false", "1:14", "\"on\", \"off\""),
        ("path_marks = 0x5".into(), "these are not 2 or more bits in a row", "1:14", "such as 0x78"),
        ("path_marks = 0".into(), "these are not 2 or more bits in a row", "1:14", "such as 0x78"),
        ("path_marks = \"0x78\"".into(), "`path_marks` must be a whole number, this is text", "1:14", "without quotes, such as 0x78"),
        ("path_marks = -1".into(), "`path_marks` is out of bounds", "1:14", "such as 0x78"),
        ("path_marks = 1".into(), "these are not 2 or more bits in a row", "1:14", "such as 0x78"),
        ("placement = \"tabel\"".into(), "`placement` cannot be \"tabel\"", "1:13", "\"auto\", \"main\", \"table\""),
        // Times.
        ("patience = 1".into(), "`patience` must be text, this is a whole number", "1:12", "\"1s\""),
        ("patience = 1.5".into(), "this is a fraction", "1:12", "\"1s\""),
        ("patience = 2020-01-01".into(), "this is a date or time of day", "1:12", "\"1s\""),
        ("patience = [\"1s\"]".into(), "this is a list", "1:12", "\"1s\""),
        ("patience = \"1\"".into(), "not a time", "1:12", "ms, s, m or h"),
        ("patience = \"s\"".into(), "not a time", "1:12", "ms, s, m or h"),
        ("patience = \"\"".into(), "not a time", "1:12", "ms, s, m or h"),
        ("patience = \"-1s\"".into(), "not a time", "1:12", "ms, s, m or h"),
        ("patience = \"1 s\"".into(), "not a time", "1:12", "ms, s, m or h"),
        ("patience = \"1.5s\"".into(), "not a time", "1:12", "ms, s, m or h"),
        ("patience = \"1d\"".into(), "not a time", "1:12", "ms, s, m or h"),
        ("patience = \"99999999999999999999s\"".into(), "not a time", "1:12", "ms, s, m or h"),
        ("patience = \"18446744073709551615h\"".into(), "not a time", "1:12", "ms, s, m or h"),
        ("patience = \"199ms\"".into(), "`patience` is out of bounds", "1:12", "from \"200ms\" to \"60s\""),
        ("patience = \"61s\"".into(), "`patience` is out of bounds", "1:12", "from \"200ms\" to \"60s\""),
        ("return_after = \"2h\"".into(), "`return_after` is out of bounds", "1:16", "from \"0s\" to \"1h\""),
        ("boot_wait = \"61m\"".into(), "`boot_wait` is out of bounds", "1:13", "from \"0s\" to \"1h\""),
        (with("interval = \"999ms\""), "`interval` is out of bounds", "4:12", "from \"1s\" to \"1h\""),
        // Uplinks.
        ("uplink = 1".into(), "`uplink` must be a list, this is a whole number", "1:10", "[[uplink]], with two brackets"),
        ("[uplink]\nname = \"dpu\"".into(), "`uplink` must be a list, this is a table", "1:1", "[[uplink]], with two brackets"),
        ("uplink = [1]".into(), "an entry of `uplink` must be a table", "1:11", "the keys here are `name`"),
        (many_uplinks, "`uplink` has 65 entries", "193:1", "keep 64"),
        ("[[uplink]]\nmatch = { pci = \"0000:03:00.0\" }".into(), "`name` is missing", "1:1", "add `name"),
        ("[[uplink]]\nname = \"dpu\"".into(), "`match` is missing", "1:1", "add `match"),
        ("[[uplink]]\nname = 1\nmatch = {}".into(), "`name` must be text", "2:8", "\"dpu\""),
        (with("").replace("dpu", ""), "a name has 1 to 64", "2:8", "short name"),
        (long_name, "a name has 1 to 64", "2:8", "short name"),
        (with("").replace("dpu", "a\\u001b[0m"), "a name has 1 to 64", "2:8", "short name"),
        (with("").replace("dpu", " dpu"), "no space at either end", "2:8", "short name"),
        (with("") + &with("").replace(":03:", ":04:"), "there is an uplink named \"dpu\"", "6:8", "name of its own"),
        (with("") + &with("").replace("dpu", "other"), "the uplink \"dpu\" matches this already", "7:9", "different interface"),
        (with("tier = 0"), "`tier` is out of bounds", "4:8", "from 1 to 1000"),
        (with("tier = 1001"), "`tier` is out of bounds", "4:8", "from 1 to 1000"),
        (with("tier = -1"), "`tier` is out of bounds", "4:8", "from 1 to 1000"),
        (with("tier = 99999999999999999999"), "`tier` is out of bounds", "4:8", "from 1 to 1000"),
        (with("tier = \"1\""), "`tier` must be a whole number, this is text", "4:8", "from 1 to 1000, without quotes"),
        // Matches.
        ("[[uplink]]\nname = \"dpu\"\nmatch = \"eth0\"".into(), "`match` must be a table, this is text", "3:9", "write { interface = \"eth0\" }"),
        ("[[uplink]]\nname = \"dpu\"\nmatch = {}".into(), "nothing is said here", "3:9", "interface = "),
        ("[[uplink]]\nname = \"dpu\"\nmatch = { pci = \"0000:03:00.0\", interface = \"e\" }" .into(), "only one of these", "3:9", "write one of"),
        ("[[uplink]]\nname = \"dpu\"\nmatch = { iface = \"e\" }".into(), "unknown key `iface`", "3:11", "`interface`, `mac` and `pci`"),
        (with("").replace("0000:03:00.0", "03:00.0"), "is not a PCI address", "3:17", "as `lspci -D` shows it"),
        (with("").replace("pci", "mac"), "is not an Ethernet address", "3:17", "as `ip link` shows it"),
        (with("").replace("pci = \"0000:03:00.0\"", "interface = \"\""), "no interface can have this name", "3:23", "`*` stands for"),
        (with("").replace("pci = \"0000:03:00.0\"", &format!("interface = \"{long}\"")), "no interface can have this name", "3:23", "`*` stands for"),
        (with("").replace("pci = \"0000:03:00.0\"", "interface = \"a/b\""), "no interface can have this name", "3:23", "`*` stands for"),
        (with("").replace("\"0000:03:00.0\"", "3"), "`pci` must be text", "3:17", "0000:03:00.0"),
        // Gateways.
        (with("gateway = \"10.0.120.1\""), "`gateway` must be a list, this is text", "4:11", "gateway = [\"10.0.120.1\"]"),
        (with("gateway = [10]"), "an entry of `gateway` must be text", "4:12", "\"10.0.120.1\""),
        (with("gateway = [\"gw.example\"]"), "not an IP address", "4:12", "\"10.0.120.1\""),
        (with("gateway = [\"10.0.120.1/24\"]"), "not an IP address", "4:12", "\"10.0.120.1\""),
        (with("gateway = [\"10.0.0.1\", \"10.0.0.2\"]"), "has an ipv4 gateway already", "4:24", "one gateway per family"),
        (with("gateway = [\"fe80::1\", \"fe80::2\"]"), "has an ipv6 gateway already", "4:23", "one gateway per family"),
        (with("gateway = [\"10.0.0.1\", \"fe80::1\", \"fe80::2\"]"), "`gateway` has 3 entries", "4:35", "keep 2"),
        (with("gateway = [\"127.0.0.1\"]"), "127.0.0.1 is not the address", "4:12", "unicast"),
        (with("gateway = [\"0.0.0.0\"]"), "0.0.0.0 is not the address", "4:12", "unicast"),
        (with("gateway = [\"255.255.255.255\"]"), "255.255.255.255 is not the address", "4:12", "unicast"),
        (with("gateway = [\"224.0.0.1\"]"), "224.0.0.1 is not the address", "4:12", "unicast"),
        (with("gateway = [\"::1\"]"), "::1 is not the address", "4:12", "unicast"),
        (with("gateway = [\"ff02::1\"]"), "ff02::1 is not the address", "4:12", "unicast"),
        (with("gateway = [\"::ffff:10.0.0.1\"]"), "is not the address", "4:12", "unicast"),
        // Targets.
        (with("targets = { icmp = \"10.0.0.1\" }"), "`targets` must be a list, this is a table", "4:11", "targets = [{"),
        (with("targets = [\"10.0.0.1\"]"), "an entry of `targets` must be a table, this is text", "4:12", "write { icmp = \"10.0.0.1\" }"),
        (with(&format!("targets = [{targets}]")), "`targets` has 17 entries", "4:371", "keep 16"),
        (with("targets = [{}]"), "nothing is said here", "4:12", "write one of"),
        (with("targets = [{ icmp = \"10.0.0.1\", tcp = \"10.0.0.1:1\" }]"), "only one of these", "4:12", "write one of"),
        (with("targets = [{ udp = \"10.0.0.1:1\" }]"), "unknown key `udp`", "4:14", "`icmp` and `tcp`"),
        (with("targets = [{ icmp = \"10.0.0.1:1\" }]"), "not an IP address", "4:21", "10.0.0.53"),
        (with("targets = [{ tcp = \"10.0.0.1\" }]"), "not an IP address with a port", "4:20", "[2001:db8::10]:6443"),
        (with("targets = [{ tcp = \"10.0.0.1:0\" }]"), "not an IP address with a port", "4:20", "[2001:db8::10]:6443"),
        (with("targets = [{ icmp = \"127.0.0.1\" }]"), "127.0.0.1 is not the address", "4:21", "unicast"),
        (with("targets = [{ icmp = \"fe80::1\" }]"), "never behind a gateway", "4:21", "forward"),
        (with("targets = [{ tcp = \"169.254.0.1:1\" }]"), "never behind a gateway", "4:20", "forward"),
        (with("targets = [{ icmp = \"10.0.0.1\" }, { icmp = \"10.0.0.1\" }]"), "icmp 10.0.0.1 is asked already", "4:35", "remove one"),
        // Need.
        (with("need = \"some\""), "`need` cannot be \"some\"", "4:8", "\"any\", \"all\", or a whole number"),
        (with("need = 0"), "`need` is out of bounds", "4:8", "from 1 to 16"),
        (with("need = false"), "`need` must be a whole number", "4:8", "from 1 to 16"),
        (with("need = 1"), "no targets", "4:8", "add targets"),
        (with("need = 2\ntargets = [{ icmp = \"10.0.0.1\" }]"), "2 must answer, but only 1 ipv4", "4:8", "need fewer"),
        (with( "need = 2\ntargets = [{ icmp = \"10.0.0.1\" }, { icmp = \"10.0.0.2\" }, { icmp = \"2001:db8::1\" }]", ), "2 must answer, but only 1 ipv6", "4:8", "need fewer"),
    ];
    for (text, message, place, remedy) in cases {
        let said = said(text);
        let mut lines = said.lines();
        let first = lines.next().unwrap();
        assert!(first.contains(message), "{text}\nsaid:\n{said}\nwanted: {message}");
        let arrow = lines.next().unwrap().trim_start();
        assert_eq!(arrow, format!("--> uplinkd.toml:{place}"), "{text}\nsaid:\n{said}");
        let last = said.lines().last().unwrap();
        assert!(
            last.contains("= help: ") && last.contains(remedy),
            "{text}\nsaid:\n{said}\nwanted: {remedy}"
        );
        assert!(said.contains('^'), "{said}");
    }
}

#[test]
fn files_that_cannot_be_read() {
    let folder = std::env::temp_dir().join(format!("uplinkd-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("uplinkd.toml");
    let write = |bytes: &[u8]| File::create(&path).unwrap().write_all(bytes).unwrap();

    let missing = load(Some(&folder.join("missing.toml"))).unwrap_err().to_string();
    assert!(missing.contains("missing.toml: No such file"), "{missing}");
    assert!(missing.contains("= help: check the path"), "{missing}");

    let directory = load(Some(&folder)).unwrap_err().to_string();
    assert!(directory.contains("Is a directory"), "{directory}");

    write(b"mode = \"steer\"\nplacement = \"m\xffin\"\n");
    let binary = load(Some(&path)).unwrap_err().to_string();
    assert!(binary.starts_with("this is not UTF-8 text\n --> "), "{binary}");
    assert!(binary.contains("uplinkd.toml:2:15\n"), "{binary}");
    assert!(binary.contains("2 | placement = \"m\u{fffd}in\"\n"), "{binary}");

    write(&vec![b'#'; MAX_FILE]);
    assert_eq!(load(Some(&path)).unwrap(), Policy::default());
    write(&vec![b'#'; MAX_FILE + 1]);
    let large = load(Some(&path)).unwrap_err().to_string();
    assert!(large.contains("larger than 1 MiB"), "{large}");

    std::fs::remove_dir_all(&folder).unwrap();
}
