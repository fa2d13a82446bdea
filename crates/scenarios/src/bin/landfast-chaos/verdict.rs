//! Whether what happened may happen: rules from `docs/architecture.md`, each beside its check, over nothing but evidence.
//!
//! No rule excuses a wrong byte, a second run or an older owner, whatever was done to the cell. Faults excuse only what a
//! client was told, and only the very cause that the fault brings about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::error::Retry;
use landfast_core::record::Phase;
use landfast_scenarios::numbers::Wrong;

use crate::evidence::{Answered, At, End, Evidence, Kind, Outcome, Ran, Recorded, Request, Struck, Talk, Way};
use crate::plan::{Fault, GATEWAYS, Host, MEMBERS};

/// Within this a session that lives goes on once the faults are over: a redial waits 2 s at most, on a slow machine.
const AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// A node that is kept from the registry for less than this keeps its lease: it asks again after 3.3 s, and fences itself 7.5 s
/// after it last asked. What is left is 4.2 s, less what a busy machine takes for a question.
const LEASE_SPARE: Duration = Duration::from_millis(3_700);

/// For so long after a node was kept from the registry its instances may still be called lost: the registry's lease (10 s),
/// what a keeper that comes anew waits once more (10 s), and an election.
const LEASE_LATE: Duration = Duration::from_secs(25);

/// Two faults on the same way with less than this between them are one: a connection that was lost is made anew.
const RECOVERY: Duration = Duration::from_secs(2);

/// How late what the store says may be heard of here, beside when it reached somebody else: a member that stands still is
/// left for another one only after a while.
const HEARD_LATE: Duration = Duration::from_secs(10);

/// What is wrong, in sentences, by what it is called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) sessions: usize,
    pub(crate) faults: usize,
    pub(crate) requests: usize,
    pub(crate) lost: Vec<String>,
    pub(crate) doubled: Vec<String>,
    pub(crate) double_executions: Vec<String>,
    pub(crate) wrong_owner: Vec<String>,
    pub(crate) wrong_reason: Vec<String>,
    pub(crate) not_reattached: Vec<String>,
    pub(crate) leaks: Vec<String>,
    pub(crate) crashes: Vec<String>,
    /// How often what was seen, right or wrong: a run in which nothing ever went another way than straight has shown little.
    pub(crate) seen: BTreeMap<String, usize>,
}

impl Verdict {
    /// All that is wrong, with what it is called.
    pub(crate) fn findings(&self) -> Vec<(&'static str, &[String])> {
        vec![
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("double_executions", &self.double_executions),
            ("wrong_owner", &self.wrong_owner),
            ("wrong_reason", &self.wrong_reason),
            ("not_reattached", &self.not_reattached),
            ("leaks", &self.leaks),
            ("crashes", &self.crashes),
        ]
    }

    /// Whether nothing is.
    pub(crate) fn is_clean(&self) -> bool {
        self.findings().iter().all(|(_, found)| found.is_empty())
    }
}

/// Judges a run.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict {
        sessions: evidence.talks.len(),
        faults: evidence.struck.len(),
        requests: evidence.requests.len(),
        leaks: evidence.leaks.clone(),
        crashes: evidence.crashes.clone(),
        seen: seen(evidence),
        ..Verdict::default()
    };
    for talk in &evidence.talks {
        judge_talk(evidence, talk, &mut verdict);
    }
    let runs = runs_of(&evidence.ran);
    for request in &evidence.requests {
        judge_runs(request, runs.get(request.nonce.as_str()).copied().unwrap_or(0), &mut verdict);
        verdict.wrong_reason.extend(judge_outcome(evidence, request));
    }
    verdict.double_executions.extend(judge_wishes(evidence));
    verdict.wrong_owner.extend(judge_owners(evidence));
    verdict.wrong_reason.extend(judge_records(evidence));
    verdict
}

fn seen(evidence: &Evidence) -> BTreeMap<String, usize> {
    let ends = evidence.talks.iter().map(|talk| match &talk.end {
        None => "session without an end".to_owned(),
        Some((_, End::Whole)) => "session whole".to_owned(),
        Some((_, End::Closed(_, reason))) => {
            format!("session closed: {}", reason.split(' ').next().unwrap_or_default())
        }
        Some((_, End::Cut(_))) => "session cut".to_owned(),
        Some((_, End::Unsure)) => "session unknown to what followed its instance".to_owned(),
        Some((_, End::Exit(_) | End::Wrong(_) | End::Strange(_))) => "session wrong".to_owned(),
    });
    let outcomes = evidence.requests.iter().map(|request| match &request.outcome {
        Outcome::Answered(_) => "request answered".to_owned(),
        Outcome::Refused(_, code) => format!("request refused: {code}"),
        Outcome::Broken(_) => "request cut".to_owned(),
    });
    let records = evidence.records.iter().map(|record| match record.phase {
        Some(phase) => format!("record: {}", phase.as_str()),
        None => "record: removed".to_owned(),
    });
    let mut seen = BTreeMap::new();
    for what in ends.chain(outcomes).chain(records) {
        *seen.entry(what).or_default() += 1;
    }
    seen
}

// --- sessions ---

fn judge_talk(evidence: &Evidence, talk: &Talk, verdict: &mut Verdict) {
    let name = format!("{} ({:?}, {}, since {:.1?})", talk.name, talk.way, talk.instance, talk.began);
    let ended = talk.end.as_ref().map(|(at, _)| *at);
    // One that had ended by then is judged by its end alone.
    let lives_on = talk.began < evidence.quiet && ended.is_none_or(|at| at > evidence.quiet);
    let deadline = evidence.quiet + AGAIN_WITHIN;
    if lives_on && talk.again.or(ended).is_none_or(|at| at > deadline) {
        let again = talk.again.map(|at| at.saturating_sub(evidence.quiet));
        verdict.not_reattached.push(format!("{name}: nothing came for {again:.1?} after the last fault"));
    }
    let Some((at, end)) = &talk.end else {
        verdict.lost.push(format!("{name}: it never came to its end"));
        return;
    };
    match end {
        End::Whole => {}
        End::Wrong(wrong @ Wrong::Doubled(..)) => verdict.doubled.push(format!("{name}: {wrong}")),
        End::Wrong(wrong @ (Wrong::Lost(..) | Wrong::Foreign(_))) => verdict.lost.push(format!("{name}: {wrong}")),
        End::Strange(what) => {
            let come_again = what.contains("come again");
            let list = if come_again { &mut verdict.doubled } else { &mut verdict.lost };
            list.push(format!("{name}: {what}"));
        }
        End::Closed(code, reason) => {
            if let Err(why) = is_true_close(evidence, talk, *at, *code, reason) {
                verdict.wrong_reason.push(format!("{name}: at {at:.1?} closed {code} {reason:?}: {why}"));
            }
        }
        // Nobody kills a process of ours but with its instance, and then that is the reason.
        End::Exit(code) => {
            verdict.wrong_reason.push(format!("{name}: at {at:.1?} exit {code}, and it was not through"));
        }
        End::Cut(how) => {
            if !may_be_cut(evidence, talk, *at) {
                verdict.wrong_reason.push(format!("{name}: at {at:.1?} ended without a reason: {how}"));
            }
        }
        // Another session of the same process takes the place of one that is unknown: that is only so after an end.
        End::Unsure => {
            let ended = |phase| has_ended(evidence, &talk.instance, phase, talk.began, *at);
            if !ended(Phase::Lost) && !ended(Phase::Failed) {
                verdict
                    .lost
                    .push(format!("{name}: at {at:.1?} its session is unknown, and its instance had not ended"));
            }
        }
    }
}

/// A close frame says the cause, with the code of its row, and the cause is what was.
fn is_true_close(evidence: &Evidence, talk: &Talk, at: At, code: u16, reason: &str) -> Result<(), &'static str> {
    let word = reason.split(' ').next().unwrap_or_default();
    let cause = ErrorCode::parse(word).ok_or("it is no cause of the table")?;
    if let Way::Plain(_) = talk.way
        && cause.close() != Some(code)
    {
        return Err("the code is not the cause's");
    }
    let is_so = match cause {
        ErrorCode::InstanceLost => has_ended(evidence, &talk.instance, Phase::Lost, talk.began, at),
        ErrorCode::InstanceFailed => has_ended(evidence, &talk.instance, Phase::Failed, talk.began, at),
        // Told by who heard of the end only when the next life had begun.
        ErrorCode::UpstreamChanged => [Phase::Lost, Phase::Failed]
            .into_iter()
            .any(|phase| has_ended(evidence, &talk.instance, phase, talk.began, at)),
        ErrorCode::GatewayDraining => {
            matches!(talk.way, Way::Plain(via) if was_stopped(evidence, via, talk.began, at))
        }
        // No other can come about here: nothing is deleted, revoked or limited while a session stands, no process is
        // ended, and no program of ours ends a session.
        _ => false,
    };
    if is_so { Ok(()) } else { Err("that is not what was") }
}

/// A plain client's connection is its gateway's: it ends without a word when that is killed, or when it is killed itself.
fn may_be_cut(evidence: &Evidence, talk: &Talk, at: At) -> bool {
    let Way::Plain(via) = talk.way else { return false };
    evidence.struck.iter().any(|struck| {
        let fits = match &struck.fault {
            Fault::Kill { host } => *host == via,
            Fault::Reset { one, other } => *one == Host::Clients && *other == via,
            _ => false,
        };
        fits && struck.from <= at && talk.began <= struck.to
    })
}

/// Whether the registry had an instance's end as so, while a session stood or shortly before it was heard of.
fn has_ended(evidence: &Evidence, instance: &str, phase: Phase, began: At, ended: At) -> bool {
    evidence.records.iter().any(|record| {
        record.instance == instance
            && record.phase == Some(phase)
            && began <= record.at + HEARD_LATE
            && record.at <= ended + HEARD_LATE
    })
}

fn was_stopped(evidence: &Evidence, gateway: Host, from: At, to: At) -> bool {
    evidence.struck.iter().any(|struck| {
        matches!(struck.fault, Fault::Stop { host } if host == gateway) && struck.from <= to && from <= struck.to
    })
}

// --- requests ---

fn runs_of(ran: &[Ran]) -> BTreeMap<&str, usize> {
    let mut runs = BTreeMap::new();
    for run in ran {
        *runs.entry(run.nonce.as_str()).or_default() += 1;
    }
    runs
}

/// A request runs at most once, unless its sender said that it may be repeated; one that was answered has run; and where the
/// refusal says that nothing was started, nothing was. After any other refusal, or none, it may have run.
fn judge_runs(request: &Request, runs: usize, verdict: &mut Verdict) {
    let Request { nonce, kind, outcome, instance, .. } = request;
    if runs > 1 && matches!(kind, Kind::Post | Kind::Exec) {
        verdict.double_executions.push(format!("{kind:?} {nonce} of {instance} ran {runs} times: {outcome:?}"));
    }
    let is_done = matches!(outcome, Outcome::Answered(Answered { status: 200, .. }));
    if is_done && runs == 0 && *kind != Kind::Get {
        verdict.double_executions.push(format!("{kind:?} {nonce} of {instance} was answered, and did not run"));
    }
    if let Outcome::Refused(_, code) = outcome
        && runs > 0
        && ErrorCode::parse(code).is_some_and(|code| code.retry() == Retry::Safe)
    {
        verdict.double_executions.push(format!("{kind:?} {nonce} of {instance} ran, and {code} says it did not"));
    }
}

/// An answer says what it has to say; a refusal has a cause, and that is what was; and no answer breaks off but with its
/// gateway or the way to it.
fn judge_outcome(evidence: &Evidence, request: &Request) -> Option<String> {
    let Request { nonce, kind, via, began, ended, outcome, instance, .. } = request;
    let why = match outcome {
        Outcome::Answered(answered) if answered.is_right => return None,
        Outcome::Answered(_) => "it does not say what it should",
        Outcome::Refused(status, code) => match is_true_refusal(evidence, request, *status, code) {
            Ok(()) => return None,
            Err(why) => why,
        },
        Outcome::Broken(_) if is_client_way_struck(evidence, *via, *began, *ended) => return None,
        Outcome::Broken(_) => "nothing was done to the gateway or the way there",
    };
    Some(format!("{kind:?} {nonce} of {instance} via {via} at {began:.1?}..{ended:.1?}: {outcome:?}: {why}"))
}

fn is_true_refusal(evidence: &Evidence, request: &Request, status: u16, code: &str) -> Result<(), &'static str> {
    let Request { via, began, ended, instance, .. } = request;
    let cause = ErrorCode::parse(code).ok_or("it is no cause of the table")?;
    if cause.status() != Some(status) {
        return Err("the status is not the cause's");
    }
    let ended_as = |phase| has_ended(evidence, instance, phase, Duration::ZERO, *ended);
    let is_so = match cause {
        ErrorCode::InstanceLost => ended_as(Phase::Lost),
        ErrorCode::InstanceFailed => ended_as(Phase::Failed),
        // It was between places, so somebody moved it or it had ended and was to be placed again.
        ErrorCode::InstanceStarting | ErrorCode::InstanceMoving => {
            was_between_places(evidence, instance, *began, *ended)
        }
        ErrorCode::GatewayDraining => GATEWAYS
            .iter()
            .any(|gateway| [*gateway, Host::Clients].contains(via) && was_stopped(evidence, *gateway, *began, *ended)),
        // The node, its instance or the way there was away for as long as a request waits, or went while it ran.
        ErrorCode::NodeUnreachable | ErrorCode::UpstreamLost | ErrorCode::UpstreamTimeout => {
            is_way_struck(evidence, *via, instance, *began, *ended)
        }
        ErrorCode::NodeDraining | ErrorCode::NodeNotHere | ErrorCode::NodeStaleGeneration => {
            is_way_struck(evidence, *via, instance, *began, *ended)
        }
        ErrorCode::FileNoSpace => during(evidence, *began, *ended).any(|fault| *fault == Fault::FullDisk),
        ErrorCode::RegistryUnavailable => is_store_struck(evidence, *via, instance, *began, *ended),
        _ => false,
    };
    if is_so { Ok(()) } else { Err("that is not what was") }
}

/// Whether anything was done to the instance's node or gateway, or between them, while a request waited or shortly before.
fn is_way_struck(evidence: &Evidence, via: Host, instance: &str, began: At, ended: At) -> bool {
    let nodes = nodes_of(evidence, instance);
    during(evidence, began, ended).any(|fault| is_at(fault, via) || nodes.iter().any(|node| fault.strikes(*node)))
        || was_between_places(evidence, instance, began, ended)
}

fn is_store_struck(evidence: &Evidence, via: Host, instance: &str, began: At, ended: At) -> bool {
    let nodes = nodes_of(evidence, instance);
    during(evidence, began, ended).any(|fault| {
        MEMBERS.iter().any(|member| fault.strikes(*member))
            || is_at(fault, via)
            || nodes.iter().any(|node| fault.strikes(*node))
    })
}

/// Whether the gateway was killed or stopped, or the connections to it: whatever else is done to it, an answer comes, if late. Who
/// came over a line ([`Host::Clients`]) may have been led to either.
fn is_client_way_struck(evidence: &Evidence, via: Host, began: At, ended: At) -> bool {
    let is_via = |host: Host| host == via || (via == Host::Clients && GATEWAYS.contains(&host));
    during(evidence, began, ended).any(|fault| match fault {
        Fault::Kill { host } | Fault::Stop { host } => is_via(*host),
        Fault::Reset { one, other } => *one == Host::Clients && is_via(*other),
        _ => false,
    })
}

/// Whether a fault strikes the gateway that was asked, or over a line either.
fn is_at(fault: &Fault, via: Host) -> bool {
    fault.strikes(via) || (via == Host::Clients && GATEWAYS.iter().any(|gateway| fault.strikes(*gateway)))
}

/// The faults that were under way within a time, or over only just before it.
fn during(evidence: &Evidence, began: At, ended: At) -> impl Iterator<Item = &Fault> {
    let meets = move |struck: &&Struck| struck.from <= ended && began <= struck.to + RECOVERY;
    evidence.struck.iter().filter(meets).map(|struck| &struck.fault)
}

fn nodes_of(evidence: &Evidence, instance: &str) -> BTreeSet<Host> {
    evidence.records.iter().filter(|record| record.instance == instance).filter_map(|record| record.node).collect()
}

fn was_between_places(evidence: &Evidence, instance: &str, began: At, ended: At) -> bool {
    let mut changes = evidence.records.iter().filter(|record| record.instance == instance).peekable();
    while let Some(record) = changes.next() {
        let until = changes.peek().map_or(Duration::MAX, |next| next.at + HEARD_LATE);
        let stands = matches!(record.phase, Some(Phase::Running | Phase::Stopped | Phase::Deleted) | None);
        if !stands && record.at <= ended + HEARD_LATE && began <= until {
            return true;
        }
    }
    false
}

// --- owners ---

fn judge_owners(evidence: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_instance: BTreeMap<&str, Vec<(&Request, &Answered)>> = BTreeMap::new();
    for request in &evidence.requests {
        if let Outcome::Answered(answered) = &request.outcome {
            by_instance.entry(&request.instance).or_default().push((request, answered));
        }
    }
    for (instance, mut answers) in by_instance {
        answers.sort_by_key(|(request, _)| request.began);
        let records: Vec<&Recorded> = evidence.records.iter().filter(|record| record.instance == instance).collect();
        for (number, (request, answered)) in answers.iter().enumerate() {
            let Request { nonce, began, .. } = request;
            if !answered.instance.is_empty() && answered.instance != instance {
                wrong.push(format!("{nonce} was for {instance} and answered by {}", answered.instance));
            }
            // What was asked after an answer of a later owner, or after the registry had one, is that one's to answer.
            let told = answers[..number].iter().filter(|(earlier, _)| earlier.ended < *began);
            let told = told.map(|(_, earlier)| earlier.generation).max().unwrap_or(0);
            let given = records.iter().filter(|record| record.at < *began).map(|record| record.generation).max();
            let newest = told.max(given.unwrap_or(0));
            if answered.generation < newest {
                let Answered { generation, life, .. } = answered;
                wrong.push(format!(
                    "{nonce} of {instance}, sent at {began:.1?}, was answered by generation {generation} ({life}) after {newest}"
                ));
            }
        }
    }
    wrong.extend(judge_lives(&evidence.ran));
    wrong
}

/// Once a later life of an instance has run anything, an earlier one runs nothing more.
fn judge_lives(ran: &[Ran]) -> Vec<String> {
    let mut lives: BTreeMap<(&str, &str), (At, At)> = BTreeMap::new();
    for run in ran.iter().filter(|run| run.life != "exec") {
        let span = lives.entry((&run.instance, &run.life)).or_insert((run.at, run.at));
        *span = (span.0.min(run.at), span.1.max(run.at));
    }
    let mut wrong = Vec::new();
    for ((instance, life), (first, last)) in &lives {
        for ((other_instance, other), (begun, _)) in &lives {
            if instance == other_instance && first < begun && begun < last {
                wrong.push(format!(
                    "{instance}: {life} ran something at {last:.3?}, after {other} had begun at {begun:.3?}"
                ));
            }
        }
    }
    wrong
}

/// What was wished once is there once.
fn judge_wishes(evidence: &Evidence) -> Vec<String> {
    let mut made: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for record in &evidence.records {
        made.entry(&record.wish).or_default().insert(&record.instance);
    }
    let made = |wish: &String| made.get(wish.as_str()).map_or(0, BTreeSet::len);
    let twice = evidence.wished.iter().filter(|wish| made(wish) > 1);
    twice.map(|wish| format!("{wish} was asked for once, and {} instances were made", made(wish))).collect()
}

// --- the registry's own word ---

/// An instance is called lost only if its node was kept from its lease, and failed never: nothing here makes one fail.
fn judge_records(evidence: &Evidence) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last: BTreeMap<&str, Option<Phase>> = BTreeMap::new();
    for record in &evidence.records {
        let Recorded { at, instance, phase, node, reason, .. } = record;
        // A record that changes and stays in its phase says nothing new of that.
        if last.insert(instance, *phase) == Some(*phase) {
            continue;
        }
        match (phase, node) {
            (Some(Phase::Lost), Some(node)) if !could_be_lost(evidence, *node, reason, *at) => {
                wrong.push(format!(
                    "{instance} was called lost at {at:.1?} ({reason}), and {node} could keep its lease"
                ));
            }
            (Some(Phase::Failed), _) => wrong.push(format!("{instance} was called failed at {at:.1?}: {reason}")),
            _ => {}
        }
    }
    wrong
}

/// Whether the lease that is named as lapsed may have: of the node, or, where its host only says that it was its node's, of any that
/// shares the host, which may have had it before.
fn could_be_lost(evidence: &Evidence, node: Host, reason: &str, at: At) -> bool {
    let mates = match node {
        Host::Node('a' | 'b') if reason == "The lease of its node lapsed." => &[Host::Node('a'), Host::Node('b')][..],
        _ => &[node],
    };
    mates.iter().any(|mate| lost_its_lease(evidence, *mate, at))
}

/// Whether a node was kept from the registry for long enough that its lease may have lapsed by then. One member of three that
/// is away keeps nobody from it.
fn lost_its_lease(evidence: &Evidence, node: Host, at: At) -> bool {
    let kept_away = evidence.struck.iter().filter(|struck| keeps_from_lease(&struck.fault, node));
    let mut spans: Vec<(At, At)> = kept_away.map(|struck| (struck.from, struck.to)).collect();
    spans.extend(without_majority(evidence));
    spans.sort();
    let mut merged: Vec<(At, At)> = Vec::new();
    for (from, to) in spans {
        match merged.last_mut() {
            Some(last) if from <= last.1 + RECOVERY => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged.iter().any(|(from, to)| *to - *from >= LEASE_SPARE && *from <= at && at <= *to + LEASE_LATE)
}

/// While one member of three is away and another loses packets or is away too, the third alone answers nobody. Two that only lose
/// packets are slow, and there.
fn without_majority(evidence: &Evidence) -> Vec<(At, At)> {
    let members = || evidence.struck.iter().filter_map(|struck| Some((struck.fault.member()?, struck)));
    let pairs = members().flat_map(|one| members().map(move |other| (one, other)));
    let apart = pairs.filter(|((one, _), (other, _))| one < other);
    let is_loss = |struck: &Struck| matches!(struck.fault, Fault::Loss { .. });
    let away = apart.filter(|((_, one), (_, other))| !(is_loss(one) && is_loss(other)));
    let both = away.map(|((_, one), (_, other))| (one.from.max(other.from), one.to.min(other.to)));
    both.filter(|(from, to)| from < to).collect()
}

fn keeps_from_lease(fault: &Fault, node: Host) -> bool {
    match fault {
        Fault::Freeze { host } | Fault::Kill { host } | Fault::Stop { host } | Fault::Loss { host, .. } => {
            *host == node
        }
        Fault::Split { .. } | Fault::Mute { .. } => {
            MEMBERS.iter().filter(|member| fault.parts(node, **member)).count() >= 2
        }
        Fault::FullDisk => node == Host::Node('c'),
        Fault::Reset { .. } | Fault::Move { .. } | Fault::Drain { .. } | Fault::Clock { .. } | Fault::Slow { .. } => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Host = Host::Node('a');
    const G1: Host = Host::Gateway(1);

    fn s(seconds: u64) -> At {
        Duration::from_secs(seconds)
    }

    fn talk(end: Option<(At, End)>) -> Talk {
        let (name, instance) = ("talk".to_owned(), "ins".to_owned());
        Talk { name, instance, way: Way::Plain(G1), began: s(1), again: Some(s(101)), end }
    }

    fn request(kind: Kind, outcome: Outcome) -> Request {
        let (instance, nonce) = ("ins".to_owned(), "n1".to_owned());
        Request { instance, nonce, kind, via: G1, began: s(10), ended: s(11), outcome }
    }

    fn answered(generation: u64) -> Outcome {
        let instance = "ins".to_owned();
        Outcome::Answered(Answered { status: 200, generation, instance, is_right: true, ..Answered::default() })
    }

    fn ran(nonce: &str, life: &str, at: u64) -> Ran {
        Ran { instance: "ins".to_owned(), nonce: nonce.to_owned(), life: life.to_owned(), at: s(at) }
    }

    fn recorded(at: u64, phase: Phase, generation: u64) -> Recorded {
        let (instance, wish, reason) = ("ins".to_owned(), "wish".to_owned(), String::new());
        Recorded { at: s(at), instance, wish, phase: Some(phase), generation, node: Some(A), reason }
    }

    fn struck(fault: Fault, from: u64, to: u64) -> Struck {
        Struck { fault, from: s(from), to: s(to) }
    }

    /// What is counted, by name.
    fn counts(evidence: &Evidence) -> Vec<(&'static str, usize)> {
        let verdict = judge(evidence);
        let findings = verdict.findings().into_iter().filter(|(_, found)| !found.is_empty());
        findings.map(|(name, found)| (name, found.len())).collect()
    }

    fn with_talk(end: Option<(At, End)>) -> Evidence {
        Evidence { talks: vec![talk(end)], quiet: s(100), ..Evidence::default() }
    }

    fn with_request(kind: Kind, outcome: Outcome, ran: Vec<Ran>) -> Evidence {
        Evidence { requests: vec![request(kind, outcome)], ran, ..Evidence::default() }
    }

    #[test]
    fn a_run_in_which_all_is_well_has_nothing_to_find() {
        let mut evidence = with_talk(Some((s(120), End::Whole)));
        evidence.requests = vec![request(Kind::Post, answered(1))];
        evidence.ran = vec![ran("n1", "x", 10)];
        evidence.records = vec![recorded(1, Phase::Running, 1)];
        evidence.wished = vec!["wish".to_owned()];
        assert_eq!(counts(&evidence), []);
    }

    #[test]
    fn a_changed_missing_or_repeated_byte_counts() {
        assert_eq!(counts(&with_talk(Some((s(120), End::Wrong(Wrong::Foreign(7)))))), [("lost", 1)]);
        assert_eq!(counts(&with_talk(Some((s(120), End::Wrong(Wrong::Lost(7, 1)))))), [("lost", 1)]);
        assert_eq!(counts(&with_talk(Some((s(120), End::Wrong(Wrong::Doubled(7, 1)))))), [("doubled", 1)]);
        let far = End::Strange("input: at offset 3, 7 bytes come again".to_owned());
        assert_eq!(counts(&with_talk(Some((s(120), far)))), [("doubled", 1)]);
        assert_eq!(counts(&with_talk(None)), [("lost", 1)]);
    }

    #[test]
    fn a_session_that_does_not_go_on_in_time_counts() {
        let mut evidence = with_talk(Some((s(130), End::Whole)));
        evidence.talks[0].again = Some(s(111));
        assert_eq!(counts(&evidence), [("not_reattached", 1)]);
        evidence.talks[0].again = None;
        assert_eq!(counts(&evidence), [("not_reattached", 1)]);
        // One that was over before is not asked.
        evidence.talks[0].end = Some((s(99), End::Whole));
        assert_eq!(counts(&evidence), []);
    }

    #[test]
    fn a_cause_counts_unless_it_is_what_was() {
        let closed = |code, reason: &str| with_talk(Some((s(50), End::Closed(code, reason.to_owned()))));
        assert_eq!(counts(&closed(1011, "instance.lost")), [("wrong_reason", 1)]);
        let mut lost = closed(1011, "instance.lost");
        lost.records = vec![recorded(49, Phase::Lost, 1)];
        lost.struck = vec![struck(Fault::Kill { host: A }, 30, 45)];
        assert_eq!(counts(&lost), []);
        // Not with another code, not without a code of ours, and not for another instance.
        lost.talks[0].end = Some((s(50), End::Closed(1006, "instance.lost".to_owned())));
        assert_eq!(counts(&lost), [("wrong_reason", 1)]);
        assert_eq!(counts(&closed(1011, "internal")), [("wrong_reason", 1)]);
        // That another life has begun is so only where one has ended.
        lost.talks[0].end = Some((s(50), End::Closed(1012, "upstream.changed".to_owned())));
        assert_eq!(counts(&lost), []);
        assert_eq!(counts(&closed(1012, "upstream.changed")), [("wrong_reason", 1)]);
        assert_eq!(counts(&closed(1011, "")), [("wrong_reason", 1)]);
    }

    #[test]
    fn an_end_without_a_cause_is_only_the_killed_gateways() {
        let mut evidence = with_talk(Some((s(50), End::Cut("reset".to_owned()))));
        evidence.struck = vec![struck(Fault::Kill { host: Host::Gateway(2) }, 49, 52)];
        assert_eq!(counts(&evidence), [("wrong_reason", 1)]);
        evidence.struck = vec![struck(Fault::Kill { host: G1 }, 49, 52)];
        assert_eq!(counts(&evidence), []);
        evidence.talks[0].way = Way::Linked;
        assert_eq!(counts(&evidence), [("wrong_reason", 1)]);
    }

    #[test]
    fn a_lease_that_could_be_kept_excuses_no_loss() {
        let lost = |fault: Fault, from, to| {
            let records = vec![recorded(49, Phase::Lost, 1)];
            counts(&Evidence { records, struck: vec![struck(fault, from, to)], ..Evidence::default() })
        };
        assert_eq!(lost(Fault::Freeze { host: A }, 40, 45), []);
        assert_eq!(lost(Fault::Freeze { host: A }, 40, 43), [("wrong_reason", 1)]);
        assert_eq!(lost(Fault::Freeze { host: Host::Node('b') }, 40, 45), [("wrong_reason", 1)]);
        assert_eq!(lost(Fault::Split { one: A, others: MEMBERS.to_vec() }, 40, 45), []);
        assert_eq!(lost(Fault::Split { one: A, others: vec![MEMBERS[0]] }, 40, 45), [("wrong_reason", 1)]);
        assert_eq!(lost(Fault::Freeze { host: A }, 10, 15), [("wrong_reason", 1)]);
        // Etcd answers without one member, and not without two.
        let struck_members = |first: Fault, second: Fault| {
            let struck = vec![struck(first, 38, 45), struck(second, 40, 50)];
            counts(&Evidence { records: vec![recorded(49, Phase::Lost, 1)], struck, ..Evidence::default() })
        };
        let (killed, lossy) = (Fault::Kill { host: MEMBERS[2] }, Fault::Loss { host: MEMBERS[1], percent: 38 });
        assert_eq!(struck_members(killed.clone(), lossy.clone()), []);
        assert_eq!(struck_members(killed.clone(), Fault::Freeze { host: MEMBERS[2] }), [("wrong_reason", 1)]);
        assert_eq!(struck_members(Fault::Loss { host: MEMBERS[0], percent: 38 }, lossy), [("wrong_reason", 1)]);
        // Its host may mean the node that had it before.
        let reason = "The lease of its node lapsed.".to_owned();
        let records = vec![Recorded { reason, ..recorded(49, Phase::Lost, 1) }];
        let struck = vec![struck(Fault::Freeze { host: Host::Node('b') }, 40, 45)];
        assert_eq!(counts(&Evidence { records, struck, ..Evidence::default() }), []);
    }

    #[test]
    fn a_nonce_that_runs_twice_counts_and_so_does_an_answer_for_nothing() {
        let twice = || vec![ran("n1", "x", 10), ran("n1", "x", 11)];
        assert_eq!(counts(&with_request(Kind::Post, answered(1), twice())), [("double_executions", 1)]);
        assert_eq!(counts(&with_request(Kind::Exec, answered(1), twice())), [("double_executions", 1)]);
        assert_eq!(counts(&with_request(Kind::Keyed, answered(1), twice())), []);
        assert_eq!(counts(&with_request(Kind::Post, answered(1), Vec::new())), [("double_executions", 1)]);
        assert_eq!(counts(&with_request(Kind::Get, answered(1), Vec::new())), []);
    }

    #[test]
    fn a_refusal_that_says_nothing_ran_is_held_to_it() {
        let moving = || Outcome::Refused(503, "instance.moving".to_owned());
        let mut evidence = with_request(Kind::Post, moving(), vec![ran("n1", "x", 10)]);
        evidence.records = vec![recorded(9, Phase::Moving, 1), recorded(12, Phase::Running, 2)];
        assert_eq!(counts(&evidence), [("double_executions", 1)]);
        evidence.ran.clear();
        assert_eq!(counts(&evidence), []);
        evidence.records.clear();
        assert_eq!(counts(&evidence), [("wrong_reason", 1)]);
    }

    #[test]
    fn a_refusal_without_a_cause_and_an_answer_that_breaks_off_count() {
        let refused =
            |status, code: &str| with_request(Kind::Get, Outcome::Refused(status, code.to_owned()), Vec::new());
        assert_eq!(counts(&refused(502, "")), [("wrong_reason", 1)]);
        assert_eq!(counts(&refused(404, "instance.unknown")), [("wrong_reason", 1)]);
        let mut broken = with_request(Kind::Get, Outcome::Broken("reset".to_owned()), Vec::new());
        assert_eq!(counts(&broken), [("wrong_reason", 1)]);
        broken.struck = vec![struck(Fault::Reset { one: G1, other: A }, 10, 10)];
        assert_eq!(counts(&broken), [("wrong_reason", 1)]);
        broken.struck = vec![struck(Fault::Kill { host: G1 }, 10, 12)];
        assert_eq!(counts(&broken), []);
    }

    #[test]
    fn an_answer_of_an_earlier_owner_counts() {
        let with = |generation, instance: &str| {
            let mut evidence = with_request(Kind::Get, answered(generation), Vec::new());
            evidence.records = vec![recorded(1, Phase::Running, 3), recorded(9, Phase::Running, 4)];
            let Outcome::Answered(answered) = &mut evidence.requests[0].outcome else { unreachable!() };
            answered.instance = instance.to_owned();
            evidence
        };
        assert_eq!(counts(&with(4, "ins")), []);
        assert_eq!(counts(&with(3, "ins")), [("wrong_owner", 1)]);
        assert_eq!(counts(&with(4, "other")), [("wrong_owner", 1)]);
        // What was sent after a later owner's answer, whatever the registry was heard to say.
        let mut told = with_request(Kind::Get, answered(5), Vec::new());
        told.requests.push(Request { began: s(12), ended: s(13), ..request(Kind::Get, answered(4)) });
        assert_eq!(counts(&told), [("wrong_owner", 1)]);
    }

    #[test]
    fn a_life_that_runs_something_after_a_later_one_counts() {
        let in_turn = vec![ran("1", "x", 1), ran("2", "x", 2), ran("3", "y", 3)];
        assert_eq!(counts(&Evidence { ran: in_turn, ..Evidence::default() }), []);
        let mixed = vec![ran("1", "x", 1), ran("2", "y", 2), ran("3", "x", 3)];
        assert_eq!(counts(&Evidence { ran: mixed, ..Evidence::default() }), [("wrong_owner", 1)]);
    }

    #[test]
    fn an_instance_made_twice_a_crash_and_a_leak_count() {
        let other = Recorded { instance: "other".to_owned(), ..recorded(2, Phase::Running, 1) };
        let evidence = Evidence {
            records: vec![recorded(1, Phase::Running, 1), other],
            wished: vec!["wish".to_owned()],
            leaks: vec!["a descriptor".to_owned()],
            crashes: vec!["a gateway".to_owned()],
            ..Evidence::default()
        };
        assert_eq!(counts(&evidence), [("double_executions", 1), ("leaks", 1), ("crashes", 1)]);
    }
}
