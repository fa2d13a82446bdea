//! The manners of Kernel's clients: they read a refusal of ours only in their own form, and repeat what it does not
//! forbid.

use landfast_core::kernel::{self, RETRY_AFTER, Refusal, SHOULD_RETRY};
use landfast_core::{ErrorCode, Problem};
use landfast_net::head::ResponseHead;

use crate::answer::{self, Answer};
use crate::client::Request;
use crate::place::{first_segment, segment};

/// How a request's client wants to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    /// As the rest of the world.
    Ours,
    /// As Kernel's API does; with whether the request may be sent again although it may have run.
    Kernel {
        /// It may.
        is_repeatable: bool,
    },
}

impl Manners {
    /// Those of a request: its path tells.
    pub(crate) fn of(request: &Request) -> Self {
        let is_kernel = match request.target.strip_prefix("/i/") {
            Some(rest) => {
                rest[segment(rest)..].strip_prefix('/').is_some_and(|inside| &inside[..segment(inside)] == "kernel")
            }
            None => matches!(first_segment(&request.target), "browsers" | "browser_pools"),
        };
        if is_kernel { Self::Kernel { is_repeatable: kernel::is_repeatable(&request.method) } } else { Self::Ours }
    }

    /// A refusal of ours.
    pub(crate) fn refusal(self, problem: &Problem) -> Answer {
        let answer = answer::refusal(problem);
        match self {
            Self::Ours => answer,
            Self::Kernel { is_repeatable } => in_kernels_words(answer, problem, is_repeatable),
        }
    }
}

fn in_kernels_words(answer: Answer, problem: &Problem, is_repeatable: bool) -> Answer {
    // Whoever comes to an instance has a token of it, so it has been.
    let known = match problem.code {
        ErrorCode::InstanceUnknown => ErrorCode::InstanceGone.into(),
        _ => problem.clone(),
    };
    let Refusal { status, body, should_retry, retry_after_ms } = Refusal::new(&known, is_repeatable);
    let body = serde_json::to_vec(&body).expect("a refusal is plain data");
    let mut headers = answer.head.headers;
    headers.set("content-type", "application/json");
    headers.set("content-length", body.len().to_string());
    headers.push(SHOULD_RETRY, if should_retry { "true" } else { "false" });
    if let Some(millis) = retry_after_ms {
        headers.push(RETRY_AFTER, millis.to_string());
    }
    Answer { head: ResponseHead { status, headers }, body, cause: answer.cause }
}

#[cfg(test)]
mod tests {
    use landfast_net::head::Headers;

    use super::*;
    use crate::client::BodySize;

    fn manners(method: &str, target: &str) -> Manners {
        let (method, target) = (method.to_owned(), target.to_owned());
        Manners::of(&Request { method, target, headers: Headers::new(), body: BodySize::None, upgrade: None })
    }

    #[test]
    fn the_path_tells_whose_client_it_is() {
        let kernel = |is_repeatable| Manners::Kernel { is_repeatable };
        assert_eq!(manners("POST", "/browsers"), kernel(false));
        assert_eq!(manners("GET", "/browser_pools/p?x=/"), kernel(true));
        assert_eq!(manners("POST", "/i/ins_1/kernel/process/exec?jwt=x"), kernel(false));
        for target in ["/v1/instances", "/i/ins_1/exec", "/i/kernel", "/browsers_of_mine", "/"] {
            assert_eq!(manners("POST", target), Manners::Ours, "{target}");
        }
    }

    #[test]
    fn a_call_that_may_have_run_is_forbidden_to_be_repeated() {
        let Answer { head, body, cause } = manners("POST", "/browsers").refusal(&ErrorCode::UpstreamLost.into());
        assert_eq!((head.status, cause), (502, Some(ErrorCode::UpstreamLost)));
        assert_eq!(head.headers.get(SHOULD_RETRY), Some("false"));
        assert_eq!(head.headers.get("landfast-error"), Some("upstream.lost"));
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "upstream.lost");
        assert!(body["message"].as_str().unwrap().len() > 10);
    }

    #[test]
    fn a_browser_that_has_ended_or_is_forgotten_is_gone() {
        for code in [ErrorCode::InstanceGone, ErrorCode::InstanceUnknown, ErrorCode::InstanceLost] {
            let Answer { head, body, .. } = manners("GET", "/i/ins_1/kernel/logs/stream").refusal(&code.into());
            assert_eq!(head.status, 404);
            assert!(String::from_utf8(body).unwrap().contains("\"code\":\"browser_gone\""));
        }
    }
}
