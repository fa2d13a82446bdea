//! Events in the words of Kernel's API.
//!
//! Its clients check each event against a closed list of types and the shape of each, and one that is not on it ends
//! their stream. So what has no word there is left out, and what has one gets exactly its shape.

use serde_json::{Map, Value, json};

/// An envelope of ours in those words; `None` if they have none for it.
pub fn event(envelope: &Value) -> Option<Value> {
    let event = &envelope["event"];
    let (kind, data) = (event["type"].as_str()?, &event["data"]);
    // What a caller says under such a name has whatever shape it likes.
    let said_by = event["source"]["kind"].as_str().filter(|said_by| matches!(*said_by, "agent" | "cdp"))?;
    let data = match kind {
        "cdp_connect" => pick(data, &["connection_id"]),
        "cdp_disconnect" => pick(data, &["connection_id", "duration_ms", "message_count", "reason"]),
        "api_call" => api_call(data),
        "service_crashed" => with(pick(data, &["phase", "pid"]), "service_name", data["service"].clone()),
        "console_log" | "console_error" => console(data),
        "network_request" => pick(data, &["request_id", "method", "url", "resource_type", "frame_id", "session_id"]),
        "network_response" => pick(data, &["request_id", "status", "url", "mime_type", "resource_type", "session_id"]),
        "network_loading_failed" => {
            let failed = pick(data, &["request_id", "resource_type", "canceled", "session_id"]);
            with(failed, "error_text", data["error"].clone())
        }
        "page_navigation" => pick(data, &["url", "frame_id", "session_id"]),
        "page_dom_content_loaded" | "page_load" => pick(data, &["session_id"]),
        "page_tab_opened" => pick(data, &["target_id", "title", "url"]),
        _ => return None,
    };
    let mut told = json!({
        "ts": event["ts"], "type": kind, "category": event["category"], "source": source(kind, said_by, &event["source"]),
    });
    if event["data"].is_object() {
        told["data"] = Value::Object(data);
    }
    if event["truncated"] == true {
        told["truncated"] = true.into();
    }
    Some(json!({"seq": envelope["seq"], "event": told}))
}

/// Who says so: one of four, there.
fn source(kind: &str, said_by: &str, source: &Value) -> Value {
    let said_by = match (said_by, kind) {
        ("cdp", _) => "cdp",
        (_, "api_call") => "kernel_api",
        _ => "local_process",
    };
    let mut told = pick(source, &["event", "metadata"]);
    told.insert("kind".to_owned(), said_by.into());
    Value::Object(told)
}

/// A call's operation there is a name of the vendor's; here it is what was called.
fn api_call(data: &Value) -> Map<String, Value> {
    let text = |name: &str| data[name].as_str().unwrap_or_default();
    let operation = format!("{} {}", text("method"), text("path"));
    let told = with(pick(data, &["status", "code", "duration_ms"]), "operation_id", operation.into());
    with(told, "request_id", "".into())
}

/// Arguments there are texts.
fn console(data: &Value) -> Map<String, Value> {
    let args: Vec<String> = data["args"].as_array().into_iter().flatten().map(text).collect();
    let mut told = pick(data, &["level", "url", "session_id"]);
    told.insert("text".to_owned(), args.join(" ").into());
    told.insert("args".to_owned(), args.into());
    told
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Those of the fields that there are.
fn pick(data: &Value, names: &[&str]) -> Map<String, Value> {
    let there = names.iter().filter(|name| !data[**name].is_null());
    there.map(|name| ((*name).to_owned(), data[*name].clone())).collect()
}

fn with(mut data: Map<String, Value>, name: &str, value: Value) -> Map<String, Value> {
    data.insert(name.to_owned(), value);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: &str, data: &Value) -> Value {
        json!({"seq": 3, "event": {
            "ts": 7, "type": kind, "category": "system", "source": {"kind": "agent"}, "data": data,
        }})
    }

    #[test]
    fn what_has_no_word_there_is_left_out() {
        for kind in ["process_exit", "session_open", "page_tab_closed", "of_mine"] {
            assert_eq!(event(&said(kind, &json!({}))), None, "{kind}");
        }
        assert_eq!(event(&json!({"type": "gap", "from": "1.1", "to": "1.2"})), None);
        let mut forged = said("cdp_disconnect", &json!({"reason": 7}));
        forged["event"]["source"]["kind"] = "caller".into();
        assert_eq!(event(&forged), None, "its shape is the caller's");
    }

    #[test]
    fn a_crash_keeps_its_number_and_gets_its_shape() {
        let told = event(&said("service_crashed", &json!({"service": "chromium", "phase": "running", "pid": null})));
        let data = json!({"service_name": "chromium", "phase": "running"});
        let source = json!({"kind": "local_process"});
        let expected =
            json!({"ts": 7, "type": "service_crashed", "category": "system", "source": source, "data": data});
        assert_eq!(told, Some(json!({"seq": 3, "event": expected})));
    }

    #[test]
    fn what_a_page_logged_is_a_text_and_texts() {
        let told = event(&said("console_log", &json!({"args": ["a", 7, true], "level": "log"}))).unwrap();
        assert_eq!(told["event"]["data"]["text"], "a 7 true");
        assert_eq!(told["event"]["data"]["args"], json!(["a", "7", "true"]));
    }
}
