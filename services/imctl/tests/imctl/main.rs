//! The program as people and scripts run it, against a server that speaks the protocol.

#[allow(dead_code, reason = "the client's tests use the rest")]
#[path = "../../../client/tests/client/server.rs"]
mod server;

use std::process::{Output, Stdio};
use std::time::Duration;

use im_wire::code::ErrorCode;
use serde_json::Value;
use server::Server;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The program with nothing of the surrounding environment.
fn imctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imctl"));
    command
        .args(args)
        .env_clear()
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

async fn run(args: &[&str]) -> Output {
    timeout(SOON, imctl(args).output())
        .await
        .expect("in time")
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The exit code and what was said on standard error.
fn failed(output: &Output) -> (i32, String) {
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    )
}

fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn tokens_are_signed_with_a_secret_or_a_key() {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    let output = run(&[
        "token", "--secret", SECRET, "--user", "ann", "--admin", "--rooms", "live://*", "news",
    ])
    .await;
    let token = stdout(&output);
    let key = DecodingKey::from_secret(SECRET.as_bytes());
    let claims = decode::<Value>(token.trim(), &key, &Validation::new(Algorithm::HS256))
        .unwrap()
        .claims;
    assert_eq!(
        (claims["sub"].as_str(), claims["scope"].as_str()),
        (Some("ann"), Some("admin"))
    );
    assert_eq!(claims["rooms"], serde_json::json!(["live://*", "news"]));

    let folder = tempfile::tempdir().unwrap();
    let pairs = [
        (
            "ES256",
            Algorithm::ES256,
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        ),
        (
            "EdDSA",
            Algorithm::EdDSA,
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        ),
    ];
    for (name, algorithm, pair) in pairs {
        let path = folder.path().join(name);
        std::fs::write(&path, pair.serialize_pem()).unwrap();
        let path = path.to_str().unwrap();
        let output = run(&[
            "token",
            "--key-file",
            path,
            "--alg",
            name,
            "--user",
            "ann",
            "--json",
        ])
        .await;
        let object = objects(&stdout(&output)).remove(0);
        let public = pair.public_key_pem();
        let key = match algorithm {
            Algorithm::ES256 => DecodingKey::from_ec_pem(public.as_bytes()),
            _ => DecodingKey::from_ed_pem(public.as_bytes()),
        };
        let token = object["token"].as_str().unwrap();
        decode::<Value>(token, &key.unwrap(), &Validation::new(algorithm)).unwrap();
    }
}

#[tokio::test]
async fn secrets_can_stay_out_of_the_process_list() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let from_file = run(&[
        "token",
        "--secret-file",
        path.to_str().unwrap(),
        "--user",
        "ann",
    ])
    .await;
    assert_eq!(stdout(&from_file).matches('.').count(), 2);
    let mut from_env = imctl(&["token", "--user", "ann"]);
    let from_env = from_env
        .env("IM_AUTH_HS256_SECRET", SECRET)
        .output()
        .await
        .unwrap();
    assert_eq!(stdout(&from_env).matches('.').count(), 2);
}

#[tokio::test]
async fn mistakes_are_told_with_a_hint_and_their_own_exit_code() {
    let server = Server::start().await;
    let address = server.tcp_address();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["token", "--user", "ann"], 2, "nothing to sign with"),
        (
            &["token", "--secret", "s", "--user", "a b"],
            2,
            "white space",
        ),
        (
            &["token", "--secret", "s", "--user", "ann", "--ttl", "soon"],
            2,
            "is not a time",
        ),
        (&["send", "--room", "r", "hi"], 2, "no credentials"),
        (&["send", "--token", "ann", "hi"], 2, "which room?"),
        (
            &["send", "--token", "ann", "--room", "r", "--json-body", "{"],
            2,
            "not JSON",
        ),
        (&["tail", "--token", "ann"], 2, "which rooms?"),
        (
            &[
                "history",
                "--token",
                "ann",
                "--room",
                "r",
                "--address",
                "localhost",
            ],
            2,
            "no scheme",
        ),
        (
            &[
                "history",
                "--token",
                "ann",
                "--with",
                "bob",
                "--address",
                &address,
            ],
            2,
            "names no user",
        ),
        (
            &[
                "history",
                "--token",
                "ann",
                "--room",
                "r",
                "--address",
                "tcp://127.0.0.1:1",
                "--timeout",
                "300ms",
            ],
            3,
            "cannot connect",
        ),
        (
            &["rooms", "--token", "ann", "--http", "http://127.0.0.1:1"],
            3,
            "cannot ask",
        ),
        (&["frobnicate"], 2, "unrecognized subcommand"),
    ];
    for (args, exit, text) in cases {
        let (code, said) = failed(&run(args).await);
        assert_eq!(code, *exit, "{args:?}: {said}");
        assert!(said.contains(text), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn bench_becomes_the_program_beside_imctl() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let imctl = folder.path().join("imctl");
    std::fs::hard_link(env!("CARGO_BIN_EXE_imctl"), &imctl).unwrap();
    let bench = async || {
        Command::new(&imctl)
            .args(["bench", "--help", "--rate", "20,100"])
            .output()
            .await
            .unwrap()
    };
    let (code, said) = failed(&bench().await);
    assert_eq!(code, 1);
    assert!(
        said.contains("im-bench") && said.contains("hint: "),
        "{said}"
    );

    std::os::unix::fs::symlink("/bin/echo", folder.path().join("im-bench")).unwrap();
    assert_eq!(stdout(&bench().await), "--help --rate 20,100\n");
}

#[tokio::test]
async fn what_the_server_refuses_and_what_nobody_knows_are_told_apart() {
    let server = Server::start().await;
    let address = server.tcp_address();
    let send = [
        "send",
        "--token",
        "ann",
        "--room",
        "r",
        "--address",
        &address,
        "--timeout",
        "500ms",
        "--json",
        "hi",
    ];
    server.script(|script| script.refuse_sends = (1, ErrorCode::NotAMember));
    let (code, said) = failed(&run(&send).await);
    let error: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, error["error"]["exit"].as_i64()), (4, Some(4)));
    assert!(
        error["error"]["text"]
            .as_str()
            .unwrap()
            .contains("not_a_member")
    );

    server.script(|script| script.cut_before_ack = u32::MAX);
    let (code, said) = failed(&run(&send).await);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("--client-id"));

    server.script(|script| script.expired = ["old".to_owned()].into());
    let (code, said) = failed(
        &run(&[
            "tail",
            "--token",
            "old",
            "--room",
            "r",
            "--address",
            &address,
        ])
        .await,
    );
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("token_expired") && said.contains("hint: "));
}

#[tokio::test]
async fn what_is_sent_is_found_by_history_and_tail() {
    let server = Server::start().await;
    let (tcp, ws) = (server.tcp_address(), server.ws_address());
    let sent = run(&[
        "send",
        "--secret",
        SECRET,
        "--user",
        "ann",
        "--room",
        "r",
        "--address",
        &tcp,
        "hello",
        "world",
    ])
    .await;
    assert_eq!(stdout(&sent), "stored in r as #1\n");
    let again = [
        "send",
        "--token",
        "ann",
        "--room",
        "r",
        "--address",
        &tcp,
        "--client-id",
        "x",
        "--json",
        "--json-body",
        r#"{"a":[1]}"#,
    ];
    assert_eq!(objects(&stdout(&run(&again).await))[0]["duplicate"], false);
    assert_eq!(objects(&stdout(&run(&again).await))[0]["duplicate"], true);

    let mut lines = imctl(&[
        "send",
        "--token",
        "ann",
        "--room",
        "r",
        "--address",
        &tcp,
        "--lines",
    ])
    .stdin(Stdio::piped())
    .spawn()
    .unwrap();
    let mut stdin = lines.stdin.take().unwrap();
    let text: String = (3..=150).map(|number| format!("{number}\n")).collect();
    stdin.write_all(text.as_bytes()).await.unwrap();
    drop(stdin);
    let output = timeout(SOON, lines.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stdout(&output).lines().last(), Some("stored in r as #150"));

    let history = run(&[
        "history",
        "--token",
        "bob",
        "--room",
        "r",
        "--address",
        &ws,
        "--json-frames",
        "--json",
        "--limit",
        "3",
        "--after",
        "0",
    ])
    .await;
    let messages = objects(&stdout(&history));
    assert_eq!(
        (messages[0]["body"].as_str(), messages[0]["from"].as_str()),
        (Some("hello world"), Some("ann"))
    );
    assert_eq!(messages[1]["body"], serde_json::json!({"a": [1]}));
    let plain = stdout(
        &run(&[
            "history",
            "--token",
            "bob",
            "--room",
            "r",
            "--address",
            &ws,
            "--limit",
            "1",
        ])
        .await,
    );
    assert!(
        plain.starts_with("2023-11-14 ") && plain.ends_with("#150 ann: 150\n"),
        "{plain}"
    );

    let tail = run(&[
        "tail",
        "--token",
        "bob",
        "--room",
        "r",
        "--address",
        &ws,
        "--json",
        "--after",
        "0",
        "--count",
        "150",
    ])
    .await;
    let messages: Vec<Value> = objects(&stdout(&tail))
        .into_iter()
        .filter(|object| object["op"] == "message")
        .collect();
    let seqs: Vec<u64> = messages
        .iter()
        .map(|message| message["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, (1..=150).collect::<Vec<_>>());
    let last = stdout(
        &run(&[
            "tail",
            "--token",
            "bob",
            "--room",
            "r",
            "--address",
            &tcp,
            "--last",
            "2",
            "--count",
            "2",
        ])
        .await,
    );
    assert_eq!(last.lines().count(), 2);
}

/// A chat in line mode, as a test sits before it.
struct Talk {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Talk {
    fn start(args: &[&str]) -> Self {
        let mut child = imctl(args).stdin(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            stdin,
            lines,
        }
    }

    async fn say(&mut self, line: &str) {
        self.stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    /// Reads on until a line that contains this.
    async fn hear(&mut self, text: &str) -> String {
        let mut passed = Vec::new();
        let heard = timeout(SOON, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(text) {
                    return Some(line);
                }
                passed.push(line);
            }
            None
        });
        match heard.await {
            Ok(Some(line)) => line,
            _ => panic!("{text:?} is not among {passed:#?}"),
        }
    }

    async fn end(self) {
        let Self {
            mut child,
            stdin,
            mut lines,
        } = self;
        drop(stdin);
        while let Ok(Some(_)) = lines.next_line().await {}
        assert!(
            timeout(SOON, child.wait())
                .await
                .unwrap()
                .unwrap()
                .success()
        );
    }
}

#[tokio::test]
async fn two_people_chat() {
    let server = Server::start().await;
    server.append("lobby", "cy", "before you came");
    let (tcp, ws) = (server.tcp_address(), server.ws_address());
    let chat = |user: &'static str, address: &str| {
        let args = [
            "chat",
            "--secret",
            SECRET,
            "--user",
            user,
            "--address",
            address,
            "--room",
            "lobby",
        ]
        .map(str::to_owned);
        Talk::start(&args.each_ref().map(String::as_str))
    };
    let mut ann = chat("ann", &tcp);
    ann.hear("— lobby, 1 unread —").await;
    ann.hear("cy: before you came").await;
    let mut bob = chat("bob", &ws);
    bob.hear("cy: before you came").await;
    ann.say("hello bob").await;
    bob.hear("ann: hello bob").await;
    bob.say("/me waves").await;
    ann.hear("* bob waves").await;
    ann.say("/typing").await;
    bob.hear("· ann is typing…").await;

    bob.say("/with ann").await;
    bob.hear("— @ann —").await;
    bob.say("psst").await;
    bob.hear("bob: psst").await;
    ann.say("/with bob").await;
    ann.hear("bob: psst").await;
    ann.say("/rooms").await;
    ann.hear("* @bob").await;
    ann.say("/join lobby").await;
    ann.hear("— lobby —").await;
    ann.say("/history 5").await;
    ann.hear("nothing older").await;
    ann.say("/shout").await;
    ann.hear("/shout is not known").await;
    ann.say("/help").await;
    ann.hear("/quit").await;

    server.cut();
    ann.hear("connection lost").await;
    ann.hear("nothing was missed").await;
    ann.say("still here").await;
    ann.hear("ann: still here").await;
    ann.say("/quit").await;
    ann.end().await;
    bob.end().await;
    assert_eq!(
        server.stored("lobby"),
        ["before you came", "hello bob", "waves", "still here"]
    );
    assert_eq!(server.stored("direct:3:ann:bob"), ["psst"]);
}

#[tokio::test]
async fn a_chat_that_is_piped_in_is_sent_whole_before_the_end() {
    let server = Server::start().await;
    let address = server.tcp_address();
    let mut chat = Talk::start(&[
        "chat",
        "--token",
        "ann",
        "--address",
        &address,
        "--room",
        "r",
        "--json",
    ]);
    for number in 1..=30 {
        chat.say(&number.to_string()).await;
    }
    chat.end().await;
    let stored: Vec<String> = (1..=30).map(|number| number.to_string()).collect();
    assert_eq!(server.stored("r"), stored);
}

/// Answers every request on a port with this.
async fn web(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn lists_and_figures_come_over_http() {
    let url = web(
        "200 OK",
        r#"{"rooms":[{"id":"lobby","kind":"open"},{"id":"team","kind":"group","unread":3}]}"#,
    )
    .await;
    let rooms = stdout(&run(&["rooms", "--token", "ann", "--http", &url]).await);
    assert_eq!(
        rooms,
        "ID     KIND   UNREAD\nlobby  open   -\nteam   group  3\n"
    );
    assert_eq!(
        objects(&stdout(
            &run(&["rooms", "--token", "ann", "--http", &url, "--json"]).await
        ))
        .len(),
        2
    );

    let url = web(
        "200 OK",
        "im_connect_connections 7\nim_logic_sends_total{a=\"b\"} 2\n",
    )
    .await;
    let node = stdout(&run(&["node", "--at", &url]).await);
    assert!(
        node.contains(": ready\n") && node.contains("im_connect_connections  7"),
        "{node}"
    );

    let url = web(
        "403 Forbidden",
        r#"{"error":{"code":"forbidden","text":"admins only"}}"#,
    )
    .await;
    let (code, said) = failed(&run(&["node", "--token", "ann", "--http", &url]).await);
    assert_eq!(code, 4);
    assert!(
        said.contains("forbidden: admins only") && said.contains("--admin"),
        "{said}"
    );
}

#[tokio::test]
async fn a_room_is_deleted_by_its_id() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        let body = r#"{"id":"live://1","kind":"open","seq":7}"#;
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let said = stdout(&run(&["delete", "live://1", "--token", "root", "--http", &url]).await);
    assert_eq!(said, "live://1: deleted\n");
    let asked = asked.await.unwrap();
    assert!(
        asked.starts_with("DELETE /v1/rooms/live%3A%2F%2F1 HTTP/1.1\r\n"),
        "{asked}"
    );

    let url = web(
        "404 Not Found",
        r#"{"error":{"code":"no_such_room","text":"no room team"}}"#,
    )
    .await;
    let (code, said) = failed(&run(&["delete", "team", "--token", "root", "--http", &url]).await);
    assert_eq!(code, 4);
    assert!(said.contains("no_such_room"), "{said}");
}
