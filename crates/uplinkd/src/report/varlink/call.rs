//! One Varlink call and its reply, as bytes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uplink_core::status::Status;
use uplink_core::wire;

/// Our interface, as introspection returns it.
pub(super) const INTERFACE: &str = include_str!("../io.uplinkd.varlink");

/// The interface that every Varlink service has.
const SERVICE_INTERFACE: &str = include_str!("../org.varlink.service.varlink");

/// The bytes are not a Varlink call: whoever sent them speaks something else.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotACall;

/// A call, see <https://varlink.org/Method-Call>.
#[derive(Deserialize)]
struct Call {
    method: String,
    #[serde(default)]
    parameters: Value,
    /// No reply is wanted, not even an error.
    #[serde(default)]
    oneway: bool,
    /// Several replies are welcome; we always send one.
    #[serde(default, rename = "more")]
    _more: bool,
    /// The connection should speak another protocol afterwards.
    #[serde(default)]
    upgrade: bool,
}

/// A reply without an error.
#[derive(Serialize)]
struct Reply<T> {
    parameters: T,
}

/// A reply with an error of `org.varlink.service`.
#[derive(Debug)]
enum Failure {
    MethodNotFound(String),
    MethodNotImplemented(String),
    InterfaceNotFound(String),
    InvalidParameter(String),
}

/// The bytes to send back for a request without its NUL: a reply with one, or nothing if none is
/// wanted.
pub(super) fn answer(request: &[u8], status: &Status) -> Result<Vec<u8>, NotACall> {
    let call: Call = serde_json::from_slice(request).map_err(|_| NotACall)?;
    let reply = carry_out(&call, status).unwrap_or_else(|failure| encode(&failure.to_json()));
    Ok(if call.oneway { Vec::new() } else { reply })
}

/// Finds the method and gives its reply.
fn carry_out(call: &Call, status: &Status) -> Result<Vec<u8>, Failure> {
    let (interface, method) =
        call.method.rsplit_once('.').ok_or_else(|| Failure::InvalidParameter("method".to_owned()))?;
    if call.upgrade {
        return Err(Failure::MethodNotImplemented(call.method.clone()));
    }
    match (interface, method) {
        ("io.uplinkd", "GetStatus") => {
            parameters(call, &[])?;
            Ok(encode(&Reply { parameters: wire::GetStatus { status: status.into() } }))
        }
        ("org.varlink.service", "GetInfo") => {
            parameters(call, &[])?;
            Ok(encode(&Reply { parameters: info() }))
        }
        ("org.varlink.service", "GetInterfaceDescription") => {
            let description = describe(parameters(call, &["interface"])?)?;
            Ok(encode(&Reply { parameters: json!({ "description": description }) }))
        }
        ("io.uplinkd" | "org.varlink.service", _) => Err(Failure::MethodNotFound(call.method.clone())),
        (unknown, _) => Err(Failure::InterfaceNotFound(unknown.to_owned())),
    }
}

/// The parameters of a call, which may only have these names.
fn parameters<'a>(call: &'a Call, known: &[&str]) -> Result<Option<&'a Map<String, Value>>, Failure> {
    match &call.parameters {
        Value::Null => Ok(None),
        Value::Object(given) => match given.keys().find(|key| !known.contains(&key.as_str())) {
            Some(unknown) => Err(Failure::InvalidParameter(unknown.clone())),
            None => Ok(Some(given)),
        },
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(Failure::InvalidParameter("parameters".to_owned()))
        }
    }
}

/// What `GetInfo` returns.
fn info() -> Value {
    json!({
        "vendor": "uplinkd",
        "product": "uplinkd",
        "version": env!("CARGO_PKG_VERSION"),
        "url": "",
        "interfaces": ["io.uplinkd", "org.varlink.service"],
    })
}

/// What `GetInterfaceDescription` returns.
fn describe(parameters: Option<&Map<String, Value>>) -> Result<&'static str, Failure> {
    let interface = parameters
        .and_then(|given| given.get("interface"))
        .and_then(Value::as_str)
        .ok_or_else(|| Failure::InvalidParameter("interface".to_owned()))?;
    match interface {
        "io.uplinkd" => Ok(INTERFACE),
        "org.varlink.service" => Ok(SERVICE_INTERFACE),
        unknown => Err(Failure::InterfaceNotFound(unknown.to_owned())),
    }
}

impl Failure {
    /// The reply that says so.
    fn to_json(&self) -> Value {
        let (error, parameter, value) = match self {
            Self::MethodNotFound(method) => ("MethodNotFound", "method", method),
            Self::MethodNotImplemented(method) => ("MethodNotImplemented", "method", method),
            Self::InterfaceNotFound(interface) => ("InterfaceNotFound", "interface", interface),
            Self::InvalidParameter(parameter) => ("InvalidParameter", "parameter", parameter),
        };
        json!({
            "error": format!("org.varlink.service.{error}"),
            "parameters": { parameter: value },
        })
    }
}

/// A message with its NUL.
fn encode(message: &impl Serialize) -> Vec<u8> {
    // Our records have string keys only and no failing serialiser: an error cannot happen, and an
    // empty object is a valid reply if it does.
    let mut bytes = serde_json::to_vec(message).unwrap_or_else(|_| b"{}".to_vec());
    bytes.push(0);
    bytes
}
