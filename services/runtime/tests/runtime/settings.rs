//! Settings from flags, environment and file, and every way to get them wrong.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use im_runtime::settings::{Program, Reader, Secret, Stop, load, markdown};

const PROGRAM: Program = Program {
    name: "im-sample",
    about: "A program for tests.",
};

#[derive(Debug, PartialEq)]
struct Sample {
    listen: SocketAddr,
    redis_url: String,
    secret: Option<Secret>,
    patience: Duration,
    outbox: usize,
    shards: u16,
    share: f64,
    unsigned: bool,
    endpoints: Vec<String>,
    store: u8,
    collector: Option<String>,
}

fn read(from: &mut Reader<'_>) -> Sample {
    from.group("Clients");
    let sample = Sample {
        listen: from
            .address("tcp_listen", "Where clients connect.")
            .or(([0, 0, 0, 0], 3101).into()),
        redis_url: from
            .url("redis_url", &["redis", "rediss"], "The store.")
            .with_credentials()
            .required("redis://localhost".to_owned()),
        secret: from.secret("auth_hs256_secret", "Signs tokens.").optional(),
        patience: from
            .duration("patience", "How long to wait.")
            .within(Duration::from_millis(1)..=Duration::from_secs(60))
            .or(Duration::from_secs(10)),
        outbox: from
            .bytes("outbox_bytes", "Bound of an outbox.")
            .or(64 * 1024),
        shards: from
            .integer("shards", "How many shards.")
            .within(1..=64)
            .or(2),
        share: from.number("share", "A share.").or(0.5),
        unsigned: from
            .boolean("auth_allow_unsigned", "Believes everybody.")
            .or(false),
        endpoints: from
            .list(
                "etcd_endpoints",
                "URL",
                |text| Ok(text.to_owned()),
                String::clone,
                "Where etcd is.",
            )
            .or(Vec::new()),
        store: from
            .choice("store", &[("memory", 1), ("disk", 2)], "Where rooms live.")
            .or(2),
        collector: from
            .text("otlp_endpoint", "Traces.")
            .environment("OTEL_EXPORTER_OTLP_ENDPOINT")
            .optional(),
    };
    if sample.secret.is_none() && sample.share > 1.0 {
        from.mistake("share", "with no secret it must be 1 or less");
    }
    sample
}

fn try_load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Sample, Stop> {
    let arguments = arguments.iter().map(OsString::from);
    let environment = environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(PROGRAM, read, arguments, environment)
}

const REDIS: (&str, &str) = ("IM_REDIS_URL", "redis://localhost");

fn mistakes(arguments: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    match try_load(arguments, environment) {
        Err(Stop::Mistakes(mistakes)) => mistakes.iter().map(ToString::to_string).collect(),
        other => panic!("no mistakes: {other:?}"),
    }
}

fn printed(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    match try_load(arguments, environment) {
        Err(Stop::Print(text)) => text,
        other => panic!("nothing printed: {other:?}"),
    }
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn defaults_hold_where_nothing_is_given() {
    let sample = try_load(&[], &[REDIS]).unwrap();
    let expected = Sample {
        listen: ([0, 0, 0, 0], 3101).into(),
        redis_url: "redis://localhost".into(),
        secret: None,
        patience: Duration::from_secs(10),
        outbox: 65_536,
        shards: 2,
        share: 0.5,
        unsigned: false,
        endpoints: vec![],
        store: 2,
        collector: None,
    };
    assert_eq!(sample, expected);
}

#[test]
fn every_form_is_read_from_flags_environment_and_file_alike() {
    let folder = tempfile::tempdir().unwrap();
    let toml = "tcp_listen = '1.2.3.4:5'\nredis_url = 'rediss://h'\nauth_hs256_secret = 's'\npatience = '1m'\n\
        outbox_bytes = 1_024\nshards = 3\nshare = 0.25\nauth_allow_unsigned = true\netcd_endpoints = ['a', 'b']\n\
        store = 'memory'\notlp_endpoint = 'o'\n";
    let from_file = try_load(&["--config", &file(folder.path(), "c.toml", toml)], &[]).unwrap();
    let from_environment = try_load(
        &[],
        &[
            ("IM_TCP_LISTEN", "1.2.3.4:5"),
            ("IM_REDIS_URL", "rediss://h"),
            ("IM_AUTH_HS256_SECRET", "s"),
            ("IM_PATIENCE", "60s"),
            ("IM_OUTBOX_BYTES", "1KiB"),
            ("IM_SHARDS", "3"),
            ("IM_SHARE", "0.25"),
            ("IM_AUTH_ALLOW_UNSIGNED", "yes"),
            ("IM_ETCD_ENDPOINTS", "a, b,"),
            ("IM_STORE", "memory"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "o"),
        ],
    )
    .unwrap();
    let flags = "--tcp-listen 1.2.3.4:5 --redis-url=rediss://h --auth-hs256-secret s --patience 60000ms --outbox-bytes 1024 \
        --shards 3 --share 0.25 --auth-allow-unsigned --etcd-endpoints a,b --store memory --otlp-endpoint o";
    let from_flags = try_load(&flags.split_whitespace().collect::<Vec<_>>(), &[]).unwrap();
    assert_eq!(from_flags.endpoints, ["a", "b"]);
    assert_eq!(from_flags.secret.as_ref().map(Secret::reveal), Some("s"));
    assert_eq!(from_file, from_flags);
    assert_eq!(from_environment, from_flags);
}

#[test]
fn flags_come_before_the_environment_and_the_environment_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(
        folder.path(),
        "c.toml",
        "redis_url = 'redis://file'\nshards = 3\nstore = 'memory'\n",
    );
    let environment = [
        ("IM_CONFIG", config.as_str()),
        ("IM_REDIS_URL", "redis://environment"),
        ("IM_SHARDS", "4"),
    ];
    let sample = try_load(&["--shards", "5"], &environment).unwrap();
    assert_eq!(
        (sample.shards, sample.redis_url.as_str(), sample.store),
        (5, "redis://environment", 1)
    );
}

#[test]
fn each_mistake_names_field_and_source_and_what_to_write() {
    for (arguments, environment, expected) in [
        (
            vec!["--shards", "many"],
            vec![REDIS],
            r#"shards (flag --shards): "many": write a whole number"#,
        ),
        (
            vec![],
            vec![REDIS, ("IM_SHARDS", "65")],
            r#"shards (environment IM_SHARDS): "65": write something from 1 to 64"#,
        ),
        (
            vec![],
            vec![REDIS, ("IM_PATIENCE", "10")],
            r#"patience (environment IM_PATIENCE): "10": write a duration with its unit (ms, s, m, h, d), for example 500ms, 10s or 1m30s"#,
        ),
        (
            vec![],
            vec![REDIS, ("IM_PATIENCE", "2m")],
            r#"patience (environment IM_PATIENCE): "2m": write something from 1ms to 1m"#,
        ),
        (
            vec![],
            vec![],
            "redis_url (not given): is needed: set IM_REDIS_URL or --redis-url to URL: redis://, rediss://",
        ),
        (
            vec![],
            vec![("IM_REDIS_URL", "http://user:hush@h")],
            r#"redis_url (environment IM_REDIS_URL): "http://user:***@h": write a URL that begins with redis://… or rediss://…"#,
        ),
        (
            vec![],
            vec![REDIS, ("IM_TCP_LISTEN", "")],
            r#"tcp_listen (environment IM_TCP_LISTEN): "": it is empty: give a value or leave it out"#,
        ),
        (
            vec![],
            vec![REDIS, ("IM_AUTH_HS256_SECRET", "")],
            "auth_hs256_secret (environment IM_AUTH_HS256_SECRET): it is empty: give a value or leave it out",
        ),
        (
            vec!["--auth-allow-unsigned=perhaps"],
            vec![REDIS],
            r#"auth_allow_unsigned (flag --auth-allow-unsigned): "perhaps": write true or false"#,
        ),
        (
            vec!["--store", "tape"],
            vec![REDIS],
            r#"store (flag --store): "tape": write one of memory, disk"#,
        ),
        (
            vec![],
            vec![REDIS, ("IM_TPC_LISTEN", "1.2.3.4:5")],
            "IM_TPC_LISTEN (environment): there is no such setting: did you mean IM_TCP_LISTEN?",
        ),
        (
            vec![],
            vec![REDIS, ("IM_SOMETHING_ELSE", "1")],
            "IM_SOMETHING_ELSE (environment): there is no such setting: unset it",
        ),
        (
            vec!["--tpc-listen", "1.2.3.4:5"],
            vec![REDIS],
            "--tpc-listen (flag): there is no such setting: did you mean --tcp-listen?",
        ),
        (
            vec!["stray"],
            vec![REDIS],
            "stray (flag): there is no such setting: take it out",
        ),
        (
            vec!["--shards"],
            vec![REDIS],
            "command line (flags): a value is required for '--shards <whole number, 1 to 64>' but none was supplied",
        ),
        (
            vec!["--share", "2"],
            vec![REDIS],
            "share (flag --share): with no secret it must be 1 or less",
        ),
        (
            vec!["--config", "/does/not/exist.toml"],
            vec![REDIS],
            "config (flag --config): /does/not/exist.toml cannot be read: No such file or directory (os error 2)",
        ),
        (
            vec![],
            vec![REDIS, ("IM_AUTH_HS256_SECRET_FILE", "/does/not/exist")],
            "auth_hs256_secret_file (environment IM_AUTH_HS256_SECRET_FILE): /does/not/exist cannot be read: No such file or directory (os error 2)",
        ),
        (
            vec![],
            vec![
                REDIS,
                ("IM_AUTH_HS256_SECRET_FILE", "/f"),
                ("IM_AUTH_HS256_SECRET", "s"),
            ],
            "auth_hs256_secret_file (environment IM_AUTH_HS256_SECRET_FILE): both it and auth_hs256_secret are given: leave one out",
        ),
    ] {
        assert_eq!(
            mistakes(&arguments, &environment),
            [expected],
            "{arguments:?} {environment:?}"
        );
    }
}

#[test]
fn mistakes_in_the_file_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (text, expected) in [
        (
            "shards = 'many'",
            r#"shards (file FILE): "many": write a whole number"#,
        ),
        (
            "shard = 2",
            "shard (file FILE): there is no such setting: did you mean shards?",
        ),
        (
            "[redis]\nurl = 'x'",
            "redis (file FILE): there is no such setting: take it out",
        ),
        (
            "[store]\nkind = 'x'",
            "store (file FILE): write a string, a number, true or false, or an array of strings",
        ),
    ] {
        let path = file(folder.path(), "c.toml", text);
        assert_eq!(
            mistakes(&["--config", &path], &[REDIS]),
            [expected.replace("FILE", &path)],
            "{text}"
        );
    }
    let path = file(folder.path(), "broken.toml", "shards = = 2");
    let broken = mistakes(&["--config", &path], &[]);
    assert_eq!(
        broken.len(),
        1,
        "what the file may hold is not said to be missing: {broken:?}"
    );
    assert!(
        broken[0].starts_with(&format!("config (flag --config): {path} is not TOML: ")),
        "{broken:?}"
    );
}

#[test]
fn all_mistakes_come_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "c.toml", "stroe = 'disk'\npatience = '0s'\n");
    let environment = [
        ("IM_SHARDS", "0"),
        ("IM_OUTBOX", "1"),
        ("IM_CONFIG", path.as_str()),
    ];
    let found = mistakes(
        &["--colour", "red", "--taste=sweet", "--share", "x"],
        &environment,
    );
    let fields: Vec<&str> = found
        .iter()
        .map(|mistake| mistake.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "--colour",
            "--taste",
            "IM_OUTBOX",
            "stroe",
            "redis_url",
            "patience",
            "shards",
            "share"
        ]
    );

    let Err(Stop::Mistakes(all)) = try_load(&["--share", "x"], &[]) else {
        panic!("no mistakes")
    };
    let text = all.to_string();
    assert!(
        text.starts_with("im-sample: 2 mistakes in the configuration\n  - redis_url (not given)"),
        "{text}"
    );
    assert!(
        text.ends_with("`im-sample --help` lists all settings"),
        "{text}"
    );
}

#[test]
fn what_kubernetes_tells_of_services_and_imctl_reads_is_no_mistake() {
    let links = [
        ("IM_CONNECT_SERVICE_HOST", "10.0.0.1"),
        ("IM_CONNECT_SERVICE_PORT", "3101"),
        ("IM_CONNECT_SERVICE_PORT_TCP", "3101"),
        ("IM_CONNECT_PORT", "tcp://10.0.0.1:3101"),
        ("IM_CONNECT_PORT_3101_TCP", "tcp://10.0.0.1:3101"),
        ("IM_CONNECT_PORT_3101_TCP_ADDR", "10.0.0.1"),
        ("IM_TOKEN", "imctl's"),
        REDIS,
    ];
    assert!(try_load(&[], &links).is_ok());
}

#[test]
fn variables_of_our_other_programs_are_passed_over_and_named() {
    let environment = [
        ("IM_REDIS_APPEND_WORKERS", "4"),
        ("IM_PEER_SECRET_FILE", "/x"),
        ("IM_DATA_DIR", "/y"),
        REDIS,
    ];
    let environment =
        environment.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let named = |from: &mut Reader<'_>| (read(from), from.of_others().to_vec());
    let (_, passed_over) = load(PROGRAM, named, [], environment).unwrap();
    assert_eq!(
        passed_over,
        [
            "IM_REDIS_APPEND_WORKERS",
            "IM_PEER_SECRET_FILE",
            "IM_DATA_DIR"
        ]
    );
    let misspelled = mistakes(&[], &[("IM_AUTH_HS256_SECERT", "s"), REDIS]);
    assert!(
        misspelled[0].starts_with("IM_AUTH_HS256_SECERT (environment): there is no such setting"),
        "{misspelled:?}"
    );
}

#[test]
fn a_secret_is_read_from_its_file_without_the_last_line_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "secret", "hush hush\n");
    for (arguments, environment) in [
        (
            vec![],
            vec![REDIS, ("IM_AUTH_HS256_SECRET_FILE", path.as_str())],
        ),
        (vec!["--auth-hs256-secret-file", &path], vec![REDIS]),
        // A layer with precedence wins whichever way it gives the value.
        (
            vec!["--auth-hs256-secret-file", &path],
            vec![REDIS, ("IM_AUTH_HS256_SECRET", "other")],
        ),
    ] {
        let sample = try_load(&arguments, &environment).unwrap();
        assert_eq!(sample.secret, Some(Secret::new("hush hush")));
    }
}

#[test]
fn the_configuration_in_force_says_where_each_value_comes_from_and_hides_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(folder.path(), "c.toml", "patience = '5s'\n");
    let secret = file(folder.path(), "secret", "hush");
    let environment = [
        ("IM_REDIS_URL", "redis://user:hush@h:1"),
        ("IM_AUTH_HS256_SECRET_FILE", secret.as_str()),
        ("IM_CONFIG", config.as_str()),
    ];
    let text = printed(&["--print-config", "--shards", "7"], &environment);
    assert!(!text.contains("hush"), "{text}");
    let named = format!("file {secret}, named by environment IM_AUTH_HS256_SECRET_FILE");
    for line in [
        "tcp_listen = \"0.0.0.0:3101\"  # default",
        "redis_url = \"redis://user:***@h:1\"  # environment IM_REDIS_URL",
        &format!("auth_hs256_secret = \"***\"  # {named}"),
        &format!("patience = \"5s\"  # file {config}"),
        "outbox_bytes = \"64KiB\"  # default",
        "shards = 7  # flag --shards",
        "auth_allow_unsigned = false  # default",
        "# otlp_endpoint is not set",
    ] {
        assert!(
            text.lines().any(|other| other == line),
            "{line}\nis not in\n{text}"
        );
    }
    assert!(text.parse::<toml::Table>().is_ok(), "it is TOML: {text}");
}

#[test]
fn help_and_version_are_printed_whatever_else_is_wrong() {
    let help = printed(&["--help"], &[("IM_SHARDS", "x")]);
    for part in [
        "--redis-url",
        "[IM_REDIS_URL, needed]",
        "--auth-hs256-secret-file",
        "Clients:",
        "default \"64KiB\"",
    ] {
        assert!(help.contains(part), "{part}\nis not in\n{help}");
    }
    assert!(printed(&["--version"], &[]).starts_with("im-sample 0."));
}

#[test]
fn the_documentation_lists_every_setting() {
    let text = markdown(PROGRAM, read);
    for line in [
        "| `redis_url` | `IM_REDIS_URL` | URL: redis://, rediss:// | **needed** | The store. May stand in a file: `redis_url_file`, `IM_REDIS_URL_FILE`. |",
        "| `shards` | `IM_SHARDS` | whole number, 1 to 64 | `2` | How many shards. |",
        "| `etcd_endpoints` | `IM_ETCD_ENDPOINTS` | list of URL | none | Where etcd is. |",
    ] {
        assert!(
            text.lines().any(|other| other == line),
            "{line}\nis not in\n{text}"
        );
    }
}
