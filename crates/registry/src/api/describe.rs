//! The part of the API's description that is not beside the handlers: its refusals, and the words of the records.
//!
//! Refusals come from one table, so a description of each status would be written again at every path. Here each path
//! only names the rows that it can answer with; the sentences are those of the error table.

use std::collections::BTreeMap;

use landfast_core::ErrorCode;
use utoipa::PartialSchema;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ContentBuilder, InfoBuilder, OpenApi, Ref, Response, ResponseBuilder, SecurityRequirement};

pub(super) mod schema;

const KEY_SCHEME: &str = "api_key";
const PROBLEM_SCHEMA: &str = "Problem";

/// What every path that reads the store can answer with.
const WITH_STORE: &[ErrorCode] =
    &[ErrorCode::RegistryUnavailable, ErrorCode::StoreCorrupt, ErrorCode::StoreVersion, ErrorCode::StoreFull];

/// What every path behind the key can answer with as well.
const WITH_KEY: &[ErrorCode] = &[ErrorCode::AuthMissing, ErrorCode::AuthInvalid];

/// What a path of one instance's agent can answer with as well.
const WITH_AGENT: &[ErrorCode] = &[
    ErrorCode::RequestInvalid,
    ErrorCode::InstanceUnknown,
    ErrorCode::InstanceGone,
    ErrorCode::InstanceStopped,
    ErrorCode::InstanceFailed,
    ErrorCode::InstanceLost,
    ErrorCode::InstanceStarting,
    ErrorCode::InstanceMoving,
    ErrorCode::InstanceWaking,
    ErrorCode::RequestConflict,
    ErrorCode::NodeNotHere,
    ErrorCode::NodeStaleGeneration,
    ErrorCode::NodeDraining,
    ErrorCode::NodeUnreachable,
    ErrorCode::UpstreamRefused,
    ErrorCode::UpstreamLost,
    ErrorCode::UpstreamTimeout,
    ErrorCode::LimitBody,
    ErrorCode::LimitProcesses,
    ErrorCode::ProcessUnknown,
    ErrorCode::ProcessNotRunning,
    ErrorCode::ProcessNoTerminal,
    ErrorCode::ProcessStdinClosed,
    ErrorCode::ProcessSpawn,
    ErrorCode::ServiceUnknown,
    ErrorCode::BrowserDown,
];

/// What is said of files, beside what every agent says.
const WITH_FILES: [ErrorCode; 14] = [
    ErrorCode::FileNotFound,
    ErrorCode::FileExists,
    ErrorCode::FileNotAFile,
    ErrorCode::FileNotADirectory,
    ErrorCode::FileNotEmpty,
    ErrorCode::FileDenied,
    ErrorCode::FileEscape,
    ErrorCode::FileArchive,
    ErrorCode::FileRange,
    ErrorCode::FileChanged,
    ErrorCode::FileNoSpace,
    ErrorCode::FileOtherDevice,
    ErrorCode::FileFailed,
    ErrorCode::LimitWatches,
];

const TAGS: [(&str, &str); 10] = [
    ("instances", "The stateful things that clients want."),
    ("processes", "What runs inside an instance; forwarded to its agent."),
    ("browsers", "The browser in an instance; forwarded to its agent."),
    ("services", "The servers in an instance; forwarded to its agent."),
    ("files", "The files of an instance; forwarded to its agent."),
    ("telemetry", "What happens in an instance; from its agent, and after its end from the archive."),
    ("tokens", "Access to one instance's data plane."),
    ("keys", "Who may use the control plane."),
    ("nodes", "The machines' daemons that run instances."),
    ("health", "Whether the server works."),
];

/// Completes the description that was collected from the handlers.
pub(super) fn finish(mut api: OpenApi) -> OpenApi {
    api.info = InfoBuilder::new()
        .title("Landfast")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The control plane of a Landfast cell. Every refusal is a row of the error table."))
        .build();
    api.tags = Some(TAGS.map(|(name, what)| TagBuilder::new().name(name).description(Some(what)).build()).to_vec());
    let components = api.components.get_or_insert_default();
    components.schemas.insert(PROBLEM_SCHEMA.to_owned(), schema::Problem::schema());
    components.add_security_scheme(KEY_SCHEME, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let paths = std::mem::take(&mut api.paths.paths);
    for (path, mut item) in paths {
        // The router's sign for the rest of a path is not OpenAPI's.
        let path = path.replace("{*rest}", "{rest}");
        let methods = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in methods {
            operation.iter_mut().for_each(|operation| complete(method, operation));
        }
        api.paths.paths.insert(path, item);
    }
    api
}

fn complete(method: &str, operation: &mut Operation) {
    let name = operation.operation_id.clone().unwrap_or_default();
    let mut codes = refusals(&name).to_vec();
    let in_tag = |tag: &str| operation.tags.iter().flatten().any(|found| found == tag);
    if !in_tag("health") {
        codes.extend(WITH_KEY);
        codes.extend(WITH_STORE);
        operation.security = Some(vec![SecurityRequirement::new(KEY_SCHEME, [""; 0])]);
    }
    if ["processes", "browsers", "services", "files", "telemetry"].into_iter().any(in_tag) {
        codes.extend(WITH_AGENT);
    }
    if in_tag("files") {
        codes.extend(WITH_FILES);
    }
    if name.starts_with("forward_") {
        // One handler forwards several methods, and each needs a name of its own.
        operation.operation_id = Some(format!("{name}_{method}"));
    }
    codes.push(ErrorCode::Internal);
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status_or_500()).or_default().push(code);
    }
    for (status, codes) in by_status {
        operation.responses.responses.insert(status.to_string(), refusal(&codes).into());
    }
}

/// What an operation can answer with by itself.
fn refusals(operation: &str) -> &'static [ErrorCode] {
    match operation {
        "ready" => WITH_STORE,
        "create_instance" => {
            &[ErrorCode::RequestInvalid, ErrorCode::RequestConflict, ErrorCode::RequestKeyReused, ErrorCode::LimitBody]
        }
        "list_instances" => &[ErrorCode::RequestInvalid],
        "read_events" => &[ErrorCode::ArchiveUnavailable],
        "read_instance" => &[ErrorCode::RequestInvalid, ErrorCode::InstanceUnknown],
        "delete_instance" | "stop_instance" => &[
            ErrorCode::RequestInvalid,
            ErrorCode::RequestConflict,
            ErrorCode::InstanceUnknown,
            ErrorCode::InstanceGone,
        ],
        "move_instance" => &[
            ErrorCode::RequestInvalid,
            ErrorCode::RequestConflict,
            ErrorCode::LimitBody,
            ErrorCode::InstanceUnknown,
            ErrorCode::InstanceGone,
            ErrorCode::InstanceStopped,
            ErrorCode::InstanceFailed,
            ErrorCode::InstanceLost,
            ErrorCode::InstanceStarting,
            ErrorCode::InstanceMoving,
            ErrorCode::InstanceSleeping,
            ErrorCode::NodeUnknown,
            ErrorCode::MoveRefused,
            ErrorCode::MoveFailed,
        ],
        "sleep_instance" | "wake_instance" => &[
            ErrorCode::RequestInvalid,
            ErrorCode::RequestConflict,
            ErrorCode::InstanceUnknown,
            ErrorCode::InstanceGone,
            ErrorCode::InstanceStopped,
            ErrorCode::InstanceFailed,
            ErrorCode::InstanceLost,
            ErrorCode::InstanceStarting,
            ErrorCode::InstanceMoving,
            ErrorCode::SleepRefused,
        ],
        "begin_move" | "commit_move" | "abort_move" => &[
            ErrorCode::RequestInvalid,
            ErrorCode::RequestConflict,
            ErrorCode::LimitBody,
            ErrorCode::InstanceUnknown,
            ErrorCode::InstanceGone,
            ErrorCode::InstanceStopped,
            ErrorCode::ServiceUnknown,
            ErrorCode::MoveRefused,
        ],
        "create_token" => &[
            ErrorCode::RequestInvalid,
            ErrorCode::LimitBody,
            ErrorCode::InstanceUnknown,
            ErrorCode::InstanceGone,
            ErrorCode::InstanceStopped,
            ErrorCode::InstanceFailed,
            ErrorCode::InstanceLost,
        ],
        "create_key" => &[ErrorCode::RequestInvalid, ErrorCode::LimitBody],
        "remove_key" => {
            &[ErrorCode::RequestInvalid, ErrorCode::RequestConflict, ErrorCode::KeyUnknown, ErrorCode::KeyLast]
        }
        "drain_node" | "undrain_node" => &[ErrorCode::RequestInvalid, ErrorCode::NodeUnknown],
        "revoke_token" => &[ErrorCode::RequestInvalid],
        _ => &[],
    }
}

fn refusal(codes: &[ErrorCode]) -> Response {
    let lines: Vec<String> = codes.iter().map(|code| format!("`{code}`: {}", code.sentence())).collect();
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(PROBLEM_SCHEMA))).build();
    ResponseBuilder::new().description(lines.join("\n")).content("application/problem+json", content).build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use landfast_core::record;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;
    use utoipa::ToSchema;

    use super::*;

    /// Every described word is one of the record, and there are as many as the record has.
    fn agree<Described: ToSchema, T: DeserializeOwned + PartialEq>(all: &[T]) {
        let schema = serde_json::to_value(Described::schema()).unwrap();
        let words = schema["enum"].as_array().unwrap();
        let parsed: Vec<T> = words.iter().map(|word| serde_json::from_value(word.clone()).unwrap()).collect();
        assert!(all.iter().all(|word| parsed.contains(word)) && all.len() == parsed.len(), "{words:?}");
    }

    #[test]
    fn the_words_of_the_records_are_described() {
        use record::{Desired, Kind, MoveStep, Network, Phase, Restart, ServiceRestart};
        agree::<schema::Kind, _>(&[Kind::Sandbox, Kind::Actor, Kind::Browser]);
        agree::<schema::Desired, _>(&[Desired::Running, Desired::Sleeping, Desired::Stopped, Desired::Deleted]);
        let live = [Phase::Pending, Phase::Starting, Phase::Running, Phase::Moving, Phase::Sleeping];
        let ends = [Phase::Stopped, Phase::Failed, Phase::Lost, Phase::Deleted];
        agree::<schema::Phase, _>(&[&live[..], &ends].concat());
        agree::<schema::ServiceRestart, _>(&[ServiceRestart::Always, ServiceRestart::OnFailure, ServiceRestart::Never]);
        agree::<schema::Restart, _>(&[Restart::Never, Restart::Always]);
        agree::<schema::Network, _>(&[Network::Auto, Network::Host, Network::Private, Network::None]);
        agree::<schema::MoveStep, _>(&[MoveStep::Preparing, MoveStep::Prepared]);
    }

    /// The described fields are those of the record.
    fn has_the_fields<Described: ToSchema, T: Serialize + Default>() {
        let described = serde_json::to_value(Described::schema()).unwrap();
        let record = serde_json::to_value(T::default()).unwrap();
        let names = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&described["properties"]), names(&record));
    }

    #[test]
    fn the_fields_of_the_records_are_described() {
        has_the_fields::<schema::InstanceSpec, record::InstanceSpec>();
        has_the_fields::<schema::Service, record::Service>();
        has_the_fields::<schema::Ready, record::Ready>();
        has_the_fields::<schema::Limits, record::Limits>();
        has_the_fields::<schema::External, record::External>();
    }

    #[test]
    fn every_operation_is_named_described_and_says_how_it_refuses() {
        let api: Value = serde_json::from_str(&crate::api::openapi()).unwrap();
        let mut names = Vec::new();
        for (path, item) in api["paths"].as_object().unwrap() {
            assert!(!path.contains('*'), "{path}");
            for (method, operation) in item.as_object().unwrap() {
                assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{method} {path}");
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
                assert!(responses.contains_key("500"), "{method} {path}");
                for (status, response) in responses {
                    assert_ne!(response["description"], "", "{method} {path} {status}");
                }
                names.push(operation["operationId"].as_str().unwrap().to_owned());
            }
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "two operations have one name: {names:?}");
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        let text = crate::api::openapi();
        let api: Value = serde_json::from_str(&text).unwrap();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(api["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
