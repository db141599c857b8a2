//! The server on a real socket, and what it sends against the interface it describes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream as Client;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use uplink_core::policy::Mode;
use uplink_core::status::{Aside, Cause, GatewaySource, Health, Reason};

use super::*;
use crate::report::sample;

/// A bound on every wait for the server.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server that runs in a thread of its own until this is dropped.
struct Running {
    path: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(name: &str) -> Self {
        let path = socket_path(name);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (bound, wait) = std::sync::mpsc::channel();
        let at = path.clone();
        let thread = thread::spawn(move || {
            runtime().block_on(async move {
                let server = Server::bind(&at).unwrap();
                let (_publish, status) = watch::channel(Arc::new(sample::status()));
                bound.send(()).unwrap();
                tokio::select! {
                    () = server.serve(status) => {}
                    _ = stopped => {}
                }
            });
        });
        wait.recv_timeout(PATIENCE).unwrap();
        Self { path, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> BufReader<Client> {
        let client = Client::connect(&self.path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(client)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
        fs::remove_dir_all(self.path.parent().unwrap()).unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap()
}

fn socket_path(name: &str) -> PathBuf {
    let folder = format!("uplinkd-varlink-{}-{name}", process::id());
    std::env::temp_dir().join(folder).join("io.uplinkd")
}

fn send(client: &mut BufReader<Client>, message: &str) {
    let client = client.get_mut();
    client.write_all(message.as_bytes()).unwrap();
    client.write_all(&[0]).unwrap();
}

fn receive(client: &mut BufReader<Client>) -> Value {
    let mut reply = Vec::new();
    client.read_until(0, &mut reply).unwrap();
    assert_eq!(reply.pop(), Some(0), "the connection was closed");
    serde_json::from_slice(&reply).unwrap()
}

/// The client's end has been closed by the server.
fn closed(client: &mut BufReader<Client>) -> bool {
    match client.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

const GET_STATUS: &str = r#"{"method":"io.uplinkd.GetStatus"}"#;

#[test]
fn the_status_is_told() {
    let server = Running::start("status");
    let mut client = server.connect();
    send(&mut client, GET_STATUS);
    let reply = receive(&mut client);
    let status = &reply["parameters"]["status"];
    assert_eq!(status["now_us"], 1_000_000_000);
    assert_eq!(status["families"][0]["pin"]["metric"], 98);
    assert_eq!(status["uplinks"][0]["paths"][1]["cause"], "gateway");
    assert_eq!(status["changes"][3]["kind"], "health");
    assert_eq!(status["changes"][3]["text"], "dpu ipv6: up → down (gateway), last sign of life 1003 ms ago");
}

#[test]
fn calls_that_fail_are_told_why_and_the_connection_stays() {
    let server = Running::start("errors");
    let mut client = server.connect();
    let cases = [
        (r#"{"method":"io.uplinkd.Nothing"}"#, "MethodNotFound", json!({"method": "io.uplinkd.Nothing"})),
        (
            r#"{"method":"org.varlink.service.X","parameters":{}}"#,
            "MethodNotFound",
            json!({"method": "org.varlink.service.X"}),
        ),
        (r#"{"method":"com.example.Do"}"#, "InterfaceNotFound", json!({"interface": "com.example"})),
        (r#"{"method":"nothing"}"#, "InvalidParameter", json!({"parameter": "method"})),
        (
            r#"{"method":"io.uplinkd.GetStatus","parameters":{"x":1}}"#,
            "InvalidParameter",
            json!({"parameter": "x"}),
        ),
        (
            r#"{"method":"io.uplinkd.GetStatus","parameters":[]}"#,
            "InvalidParameter",
            json!({"parameter": "parameters"}),
        ),
        (
            r#"{"method":"io.uplinkd.GetStatus","upgrade":true}"#,
            "MethodNotImplemented",
            json!({"method": "io.uplinkd.GetStatus"}),
        ),
        (
            r#"{"method":"org.varlink.service.GetInterfaceDescription"}"#,
            "InvalidParameter",
            json!({"parameter": "interface"}),
        ),
        (
            r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":3}}"#,
            "InvalidParameter",
            json!({"parameter": "interface"}),
        ),
        (
            r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"a.b"}}"#,
            "InterfaceNotFound",
            json!({"interface": "a.b"}),
        ),
    ];
    for (call, error, parameters) in cases {
        send(&mut client, call);
        let reply = receive(&mut client);
        assert_eq!(reply["error"], format!("org.varlink.service.{error}"), "{call}");
        assert_eq!(reply["parameters"], parameters, "{call}");
    }
    send(&mut client, r#"{"method":"io.uplinkd.GetStatus","parameters":{},"more":true}"#);
    assert_eq!(receive(&mut client)["parameters"]["status"]["ready"], true);
}

#[test]
fn calls_are_answered_in_order_and_oneway_ones_not_at_all() {
    let server = Running::start("order");
    let mut client = server.connect();
    let calls = [
        r#"{"method":"io.uplinkd.GetStatus","oneway":true}"#,
        r#"{"method":"io.uplinkd.Nothing","oneway":true}"#,
        r#"{"method":"org.varlink.service.GetInfo"}"#,
        GET_STATUS,
    ];
    client.get_mut().write_all(format!("{}\0", calls.join("\0")).as_bytes()).unwrap();
    assert_eq!(receive(&mut client)["parameters"]["product"], "uplinkd");
    assert_eq!(receive(&mut client)["parameters"]["status"]["mode"], "steer");
}

#[test]
fn what_is_no_call_closes_the_connection() {
    let server = Running::start("garbage");
    let deep = format!("{{\"method\":\"a.b\",\"parameters\":{}", "[".repeat(60_000));
    for garbage in
        ["GET / HTTP/1.1\r\n", "", "{}", r#"{"method":1}"#, r#"{"method":"a.b","oneway":1}"#, &deep, "\u{0}"]
    {
        let mut client = server.connect();
        send(&mut client, garbage);
        assert!(closed(&mut client), "{garbage}");
    }
}

#[test]
fn a_request_has_a_largest_size() {
    let server = Running::start("size");
    let padded = |size: usize| {
        let rest = " ".repeat(size - GET_STATUS.len());
        format!("{GET_STATUS}{rest}")
    };
    let mut client = server.connect();
    let largest = usize::try_from(MAX_REQUEST).unwrap();
    send(&mut client, &padded(largest));
    assert_eq!(receive(&mut client)["parameters"]["status"]["ready"], true);
    // One byte more, and no NUL is needed to be sent away.
    let sent = client.get_mut().write_all(padded(largest + 1).as_bytes());
    assert!(sent.is_err() || closed(&mut client));
}

#[test]
fn a_client_that_does_not_read_hinders_nobody() {
    let server = Running::start("blocked");
    let mut blocked = server.connect();
    // Fill the socket until the server no longer takes anything from it.
    blocked.get_mut().set_nonblocking(true).unwrap();
    let calls = format!("{GET_STATUS}\0").repeat(1000);
    while blocked.get_mut().write(calls.as_bytes()).is_ok() {}
    for _ in 0..MAX_CLIENTS {
        let mut client = server.connect();
        send(&mut client, GET_STATUS);
        assert_eq!(receive(&mut client)["parameters"]["status"]["ready"], true);
    }
}

#[test]
fn the_client_not_heard_of_for_longest_makes_room() {
    let server = Running::start("room");
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| server.connect()).collect();
    let ask = |client: &mut BufReader<Client>| {
        send(client, GET_STATUS);
        receive(client);
    };
    clients.iter_mut().for_each(ask);
    // The first is active, the second is now the one not heard of for longest.
    ask(&mut clients[0]);
    let mut late = server.connect();
    ask(&mut late);
    assert!(closed(&mut clients[1]));
    ask(&mut clients[0]);
    ask(&mut clients[2]);
}

#[test]
fn a_live_daemon_keeps_its_socket_and_a_dead_one_loses_it() {
    let server = Running::start("stale");
    let runtime = runtime();
    let _guard = runtime.enter();
    let second = Server::bind(&server.path).unwrap_err();
    assert!(
        matches!(second, ServeError::Running { process: Some(id), .. } if id == process::id()),
        "{second}"
    );
    assert_eq!(fs::metadata(&server.path).unwrap().permissions().mode() & 0o777, 0o666);

    // As after a SIGKILL: the socket is there, the lock is free.
    let path = server.path.with_file_name("killed");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let third = Server::bind(&path).unwrap();
    Client::connect(&path).unwrap();
    drop(third);
    assert!(!path.exists());

    fs::write(&path, "").unwrap();
    assert!(matches!(Server::bind(&path), Err(ServeError::Taken(_))));
}

#[test]
fn the_interface_describes_what_is_sent() {
    let types = Interface::parse(call::INTERFACE);
    for status in every_word() {
        let reply = call::answer(GET_STATUS.as_bytes(), &status).unwrap();
        let reply: Value = serde_json::from_slice(reply.strip_suffix(&[0]).unwrap()).unwrap();
        types.check("Status", &reply["parameters"]["status"], "status");
    }
}

/// The sample with each word in turn that an enum of the status has.
fn every_word() -> Vec<Status> {
    let reasons = [
        Reason::NothingWorks,
        Reason::Waiting,
        Reason::First,
        Reason::TakenOver,
        Reason::Fell(Cause::Link),
        Reason::Gone,
        Reason::Preferred,
        Reason::FirstToAnswer,
    ];
    let asides = [
        Aside::Refused,
        Aside::Multipath,
        Aside::Tunnel,
        Aside::Opaque,
        Aside::Contest,
        Aside::Rejected,
        Aside::NoRoom,
    ]
    .map(Some);
    let healths =
        [Cause::Link, Cause::Address, Cause::Gateway, Cause::Upstream, Cause::Refused, Cause::Shared]
            .map(Health::Down)
            .into_iter()
            .chain([Health::Unknown, Health::Up]);
    let sources = [
        GatewaySource::Configuration,
        GatewaySource::Route,
        GatewaySource::Advertisement,
        GatewaySource::Dhcp,
        GatewaySource::Lease,
        GatewaySource::Memory,
    ]
    .map(Some);
    let mut all = vec![sample::status()];
    let mut add = |change: &dyn Fn(&mut Status)| {
        let mut status = sample::status();
        change(&mut status);
        all.push(status);
    };
    reasons.into_iter().for_each(|reason| add(&|status| status.families[0].reason = reason));
    asides.into_iter().for_each(|aside| add(&|status| status.families[0].aside = aside));
    healths.for_each(|health| add(&|status| status.uplinks[0].paths[0].health = health));
    sources.into_iter().for_each(|by| add(&|status| status.uplinks[0].paths[0].learned = by));
    add(&|status| status.mode = Mode::Observe);
    all
}

#[test]
fn introspection_returns_both_interfaces() {
    let server = Running::start("introspection");
    let mut client = server.connect();
    send(&mut client, r#"{"method":"org.varlink.service.GetInfo"}"#);
    let info = receive(&mut client)["parameters"].clone();
    for interface in info["interfaces"].as_array().unwrap() {
        let call = json!({"method": "org.varlink.service.GetInterfaceDescription", "parameters": {"interface": interface}});
        send(&mut client, &call.to_string());
        let description = receive(&mut client)["parameters"]["description"].clone();
        let head = format!("\ninterface {}\n", interface.as_str().unwrap());
        assert!(description.as_str().unwrap().contains(&head));
    }
}

/// The types of an interface file, as far as ours goes: structs by name, fields in order.
struct Interface(BTreeMap<String, Vec<(String, String)>>);

impl Interface {
    fn parse(text: &str) -> Self {
        let bare: String =
            text.lines().map(|line| line.split('#').next().unwrap()).collect::<Vec<_>>().join(" ");
        let types = bare.split("type ").skip(1).map(|part| {
            let (name, rest) = part.split_once('(').unwrap();
            let rest = rest.split("method ").next().unwrap().trim();
            let body = rest.strip_suffix(')').unwrap();
            (name.trim().to_owned(), fields(body))
        });
        Self(types.collect())
    }

    /// `value` is of the type `kind`; `place` says where it stands.
    fn check(&self, kind: &str, value: &Value, place: &str) {
        if let Some(kind) = kind.strip_prefix('?') {
            if !value.is_null() {
                self.check(kind, value, place);
            }
        } else if let Some(kind) = kind.strip_prefix("[]") {
            for item in value.as_array().unwrap_or_else(|| panic!("{place} is no list")) {
                self.check(kind, item, place);
            }
        } else if let Some(words) = kind.strip_prefix('(') {
            let mut words = words.trim_end_matches(')').split(',').map(str::trim);
            assert!(words.any(|word| value == word), "{place} = {value}, not one of {kind}");
        } else if let Some(fields) = self.0.get(kind) {
            let object = value.as_object().unwrap_or_else(|| panic!("{place} is no object"));
            let described: Vec<&String> = fields.iter().map(|(name, _)| name).collect();
            for sent in object.keys() {
                assert!(described.contains(&sent), "{place}.{sent} is sent, not described");
            }
            for (name, kind) in fields {
                let value = object.get(name).unwrap_or_else(|| panic!("{place}.{name} is not sent"));
                self.check(kind, value, &format!("{place}.{name}"));
            }
        } else {
            let right = match kind {
                "int" => value.is_i64(),
                "string" => value.is_string(),
                "bool" => value.is_boolean(),
                unknown => panic!("{place} has the unknown type {unknown}"),
            };
            assert!(right, "{place} = {value}, not {kind}");
        }
    }
}

/// `name: type` parts between commas that are in no brackets.
fn fields(body: &str) -> Vec<(String, String)> {
    let mut depth = 0;
    let parts = body.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts
        .map(|part| {
            let (name, kind) = part.split_once(':').unwrap();
            (name.trim().to_owned(), kind.trim().to_owned())
        })
        .collect()
}
