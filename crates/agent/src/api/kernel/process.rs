//! `/kernel/process`: commands run to their end, processes started, looked at, typed to and ended.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Response, StatusCode};
use landfast_core::kernel::time;
use landfast_core::{ErrorCode, Problem};
use landfast_net::clock;
use nix::unistd::{SysconfVar, sysconf};
use serde::Deserialize;
use serde_json::json;

use super::super::answer::{Body, Refused, json as answer, parse};
use super::super::exec::{Errand, Output};
use crate::Agent;
use crate::exit::Exit;
use crate::kill;
use crate::process::{Process, Viewer};
use crate::pty::Size;
use crate::spawn::{Plan, Spec};

/// What is to be run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    cwd: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    as_user: Option<String>,
    #[serde(default)]
    as_root: bool,
    timeout_sec: Option<u64>,
    #[serde(default)]
    allocate_tty: bool,
    rows: Option<u16>,
    cols: Option<u16>,
}

/// What a process may be told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verb {
    Stdin,
    Kill,
    Resize,
}

/// `POST process/exec`: answers once it has ended.
pub(super) async fn exec(agent: Arc<Agent>, body: Bytes) -> Result<Response<Body>, Refused> {
    let wish: Wish = parse(&body)?;
    if wish.allocate_tty {
        let why = "A command that is waited for has no terminal; spawn it.";
        return Err(Problem::new(ErrorCode::RequestInvalid, why).into());
    }
    let since = Instant::now();
    let errand = Errand::start(&agent, wish.plan("closed")?)?;
    let life = Viewer::watch(errand.process().clone()).ended().await;
    let Output { stdout, stderr, .. } = Output::of(errand.process());
    let told = json!({
        "exit_code": life.exit().map(Exit::status),
        "stdout_b64": STANDARD.encode(stdout),
        "stderr_b64": STANDARD.encode(stderr),
        "duration_ms": since.elapsed().as_millis() as u64,
    });
    Ok(answer(StatusCode::OK, &told))
}

/// `POST process/spawn`.
pub(super) async fn spawn(agent: Arc<Agent>, body: Bytes) -> Result<Response<Body>, Refused> {
    let plan = parse::<Wish>(&body)?.plan("open")?;
    let process = agent.processes.start(plan, &agent.config)?;
    let told = json!({"process_id": process.id, "pid": process.pid, "started_at": time(process.started_at)});
    Ok(answer(StatusCode::OK, &told))
}

/// `GET process/{id}/status`.
pub(super) fn status(process: &Process) -> Result<Response<Body>, Refused> {
    let life = process.state().life;
    let usage = life.is_running().then(|| usage(process)).flatten();
    let (cpu_pct, mem_bytes) = usage.unwrap_or_default();
    let told = json!({
        "state": if life.is_running() { "running" } else { "exited" },
        "exit_code": life.exit().map(Exit::status),
        "cpu_pct": cpu_pct,
        "mem_bytes": mem_bytes,
    });
    Ok(answer(StatusCode::OK, &told))
}

/// `POST process/{id}/stdin`, `kill` and `resize`.
pub(super) async fn tell(process: Arc<Process>, verb: Verb, body: &[u8]) -> Result<Response<Body>, Refused> {
    let told = match verb {
        Verb::Stdin => json!({"written_bytes": type_in(process, body).await?}),
        Verb::Kill => {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Kill {
                signal: String,
            }
            process.signal(kill::parse(&parse::<Kill>(body)?.signal)?)?;
            json!({"ok": true})
        }
        Verb::Resize => {
            process.resize(parse::<Size>(body)?)?;
            json!({"ok": true})
        }
    };
    Ok(answer(StatusCode::OK, &told))
}

async fn type_in(process: Arc<Process>, body: &[u8]) -> Result<usize, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Typed {
        data_b64: String,
    }
    let typed = STANDARD.decode(parse::<Typed>(body)?.data_b64);
    let typed = typed.map_err(|error| Problem::new(ErrorCode::RequestInvalid, format!("data_b64: {error}.")))?;
    process.state().check_input()?;
    Viewer::watch(process).say(&typed).await?;
    Ok(typed.len())
}

impl Verb {
    /// The last segment of the path; there are three.
    pub(super) fn parse(segment: &str) -> Self {
        match segment {
            "stdin" => Self::Stdin,
            "kill" => Self::Kill,
            _ => Self::Resize,
        }
    }
}

impl Wish {
    fn plan(self, stdin: &str) -> Result<Plan, Problem> {
        if self.as_root || self.as_user.is_some_and(|user| !user.is_empty()) {
            let why = "as_user and as_root cannot be had: an instance has one user, and is not root.";
            return Err(Problem::new(ErrorCode::RequestInvalid, why));
        }
        // A program or a line of a shell: only the latter has words.
        let is_line = self.args.is_empty() && self.command.contains(char::is_whitespace);
        let mut spec = json!({"env": self.env, "cwd": self.cwd, "timeout": self.timeout_sec});
        if is_line {
            spec["shell"] = self.command.into();
        } else {
            spec["argv"] = std::iter::once(self.command).chain(self.args).collect::<Vec<_>>().into();
        }
        if self.allocate_tty {
            spec["tty"] = json!({"rows": self.rows.unwrap_or(24), "cols": self.cols.unwrap_or(80)});
        } else {
            spec["stdin"] = stdin.into();
        }
        let spec: Spec = serde_json::from_value(spec)
            .map_err(|error| Problem::new(ErrorCode::RequestInvalid, format!("The body: {error}.")))?;
        spec.check()
    }
}

/// What share of a processor a process has taken since its start, in percent, and the memory it has now. What cannot be
/// read has just ended.
fn usage(process: &Process) -> Option<(f64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok()?;
    // The name, in brackets, may hold anything; utime and stime are the 14th and 15th of all, rss the 24th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    let seconds = (number(11)? + number(12)?) as f64 / per_second as f64;
    let lived = clock::unix_millis().saturating_sub(process.started_at) as f64 / 1000.0;
    let share = if lived > 0.0 { 100.0 * seconds / lived } else { 0.0 };
    Some((share, number(21)? * page.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(wish: &serde_json::Value) -> Result<Vec<String>, String> {
        let wish = Wish::deserialize(wish).unwrap();
        wish.plan("closed").map(|plan| plan.argv).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_command_is_a_program_or_a_line() {
        assert_eq!(plan(&json!({"command": "ls"})), Ok(vec!["ls".into()]));
        assert_eq!(plan(&json!({"command": "my tool", "args": ["-x"]})), Ok(vec!["my tool".into(), "-x".into()]));
        assert_eq!(plan(&json!({"command": "ls | wc"})), Ok(vec!["/bin/sh".into(), "-c".into(), "ls | wc".into()]));
    }

    #[test]
    fn nobody_becomes_somebody_else() {
        for wish in [json!({"command": "id", "as_root": true}), json!({"command": "id", "as_user": "root"})] {
            assert!(plan(&wish).unwrap_err().contains("as_root"));
        }
        assert!(plan(&json!({"command": "id", "as_user": null, "timeout_sec": null})).is_ok());
    }
}
