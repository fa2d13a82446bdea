//! Which faults strike when: drawn from a seed, before anything runs, so that the same seed has the same schedule.

use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Before the first fault: everything has begun by then.
const CALM: Duration = Duration::from_secs(5);

/// Between two faults, on average: several are under way at any time, and some meet others.
const PAUSE: Duration = Duration::from_millis(2_200);

/// A machine of the cell, with the one daemon that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Host {
    /// A member of etcd.
    Etcd(u8),
    /// A node: `a` and `b` share a disk and take over each other's instances, `c` has its own.
    Node(char),
    /// A gateway.
    Gateway(u8),
    /// An API server.
    Api(u8),
    /// Where the clients are.
    Clients,
}

/// The members of etcd.
pub(crate) const MEMBERS: [Host; 3] = [Host::Etcd(1), Host::Etcd(2), Host::Etcd(3)];
/// The nodes.
pub(crate) const NODES: [Host; 3] = [Host::Node('a'), Host::Node('b'), Host::Node('c')];
/// The gateways.
pub(crate) const GATEWAYS: [Host; 2] = [Host::Gateway(1), Host::Gateway(2)];
/// The API servers.
pub(crate) const APIS: [Host; 2] = [Host::Api(1), Host::Api(2)];

/// What strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No packet of the one reaches any of the others.
    Mute { from: Host, to: Vec<Host> },
    /// No packet passes between the one and the others, either way.
    Split { one: Host, others: Vec<Host> },
    /// So many of a hundred packets that come in are lost.
    Loss { host: Host, percent: u8 },
    /// Every TCP connection between the two is killed.
    Reset { one: Host, other: Host },
    /// The daemon stands still: its sockets stay, and nothing answers.
    Freeze { host: Host },
    /// The daemon is killed, and started again when the fault is over.
    Kill { host: Host },
    /// The daemon is asked to stop, and started again when the fault is over.
    Stop { host: Host },
    /// An instance is asked to move to the other node of its host; which one, `pick` decides among those that can.
    Move { pick: u32 },
    /// The node is given nothing new.
    Drain { host: Host },
    /// The disk of node `c` is full.
    FullDisk,
    /// The daemon's time of day jumps by so many minutes, and back. That is to change nothing.
    Clock { host: Host, minutes: i16 },
    /// Clients reach this gateway over a slow line.
    Slow { gateway: Host, delay: Duration },
}

/// A fault, when it begins and how long it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stroke {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd(number) => write!(f, "etcd{number}"),
            Self::Node(name) => write!(f, "node{name}"),
            Self::Gateway(number) => write!(f, "gw{number}"),
            Self::Api(number) => write!(f, "api{number}"),
            Self::Clients => f.write_str("clients"),
        }
    }
}

impl Host {
    /// All there are, in the order of their addresses.
    pub(crate) fn all() -> Vec<Self> {
        let all = MEMBERS.into_iter().chain(NODES).chain(GATEWAYS).chain(APIS);
        all.chain([Self::Clients]).collect()
    }
}

impl Fault {
    /// The daemon that this takes away altogether, so that nothing else may be done to it meanwhile.
    pub(crate) const fn takes_away(&self) -> Option<Host> {
        match self {
            Self::Freeze { host } | Self::Kill { host } | Self::Stop { host } => Some(*host),
            Self::Mute { .. }
            | Self::Split { .. }
            | Self::Loss { .. }
            | Self::Reset { .. }
            | Self::Move { .. }
            | Self::Drain { .. }
            | Self::FullDisk
            | Self::Clock { .. }
            | Self::Slow { .. } => None,
        }
    }

    /// The member of etcd that cannot do its part meanwhile, or only now and then.
    pub(crate) fn member(&self) -> Option<Host> {
        let cut_off = match self {
            Self::Split { one, .. } | Self::Mute { from: one, .. } | Self::Loss { host: one, .. } => Some(*one),
            _ => self.takes_away(),
        };
        cut_off.filter(|host| matches!(host, Host::Etcd(_)))
    }

    /// Whether packets or the daemon of this host are struck.
    pub(crate) fn strikes(&self, host: Host) -> bool {
        match self {
            Self::Mute { from: one, to: others } | Self::Split { one, others } => {
                *one == host || others.contains(&host)
            }
            Self::Reset { one, other } => *one == host || *other == host,
            Self::Loss { host: struck, .. }
            | Self::Freeze { host: struck }
            | Self::Kill { host: struck }
            | Self::Stop { host: struck }
            | Self::Drain { host: struck }
            | Self::Slow { gateway: struck, .. } => *struck == host,
            Self::FullDisk => host == Host::Node('c'),
            Self::Move { .. } => matches!(host, Host::Node('a' | 'b')),
            Self::Clock { .. } => false,
        }
    }

    /// Whether this keeps packets from going between the two, at least one way.
    pub(crate) fn parts(&self, a: Host, b: Host) -> bool {
        match self {
            Self::Mute { from: one, to: others } | Self::Split { one, others } => {
                (*one == a && others.contains(&b)) || (*one == b && others.contains(&a))
            }
            _ => false,
        }
    }
}

/// The faults of a seed, in the order in which they begin. The last is over by `until`.
pub(crate) fn draw(seed: u64, until: Duration) -> Vec<Stroke> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut strokes: Vec<Stroke> = Vec::new();
    let mut at = CALM;
    loop {
        at += PAUSE.mul_f64(random.random_range(0.0..2.0));
        if at >= until {
            return strokes;
        }
        let fault = draw_fault(&mut random);
        let lasts = draw_duration(&mut random, &fault);
        let has_time = !matches!(fault, Fault::Stop { .. }) || at + lasts <= until;
        let stroke = Stroke { at, lasts: lasts.min(until - at), fault };
        if has_time && is_bearable(&stroke, &strokes) {
            strokes.push(stroke);
        }
    }
}

fn draw_fault(random: &mut SmallRng) -> Fault {
    match random.random_range(0..100) {
        0..=15 => draw_partition(random),
        16..=23 => Fault::Loss { host: any(random), percent: random.random_range(5..40) },
        24..=35 => draw_reset(random),
        36..=45 => Fault::Freeze { host: any(random) },
        46..=53 => Fault::Kill { host: one_of(random, &NODES) },
        54..=57 => Fault::Kill { host: one_of(random, &GATEWAYS) },
        58..=61 => Fault::Kill { host: one_of(random, &MEMBERS) },
        62..=64 => Fault::Kill { host: one_of(random, &APIS) },
        65..=66 => Fault::Stop { host: one_of(random, &GATEWAYS) },
        67..=68 => Fault::Stop { host: one_of(random, &NODES) },
        69..=86 => Fault::Move { pick: random.random() },
        87..=91 => Fault::Drain { host: one_of(random, &NODES) },
        92..=93 => Fault::FullDisk,
        94..=96 => {
            let hosts = [&NODES[..], &GATEWAYS, &APIS].concat();
            // Short beside the time for which tokens are good: whose expiry is judged by the time of day, and rightly.
            Fault::Clock { host: one_of(random, &hosts), minutes: random.random_range(-20..=20) }
        }
        _ => {
            let delay = Duration::from_millis(random.random_range(10..300));
            Fault::Slow { gateway: one_of(random, &GATEWAYS), delay }
        }
    }
}

fn draw_partition(random: &mut SmallRng) -> Fault {
    let gateways = GATEWAYS.to_vec();
    let (one, others) = match random.random_range(0..6) {
        0 => (one_of(random, &NODES), MEMBERS.to_vec()),
        1 => (one_of(random, &NODES), vec![one_of(random, &MEMBERS)]),
        2 => (one_of(random, &NODES), gateways),
        3 => (one_of(random, &GATEWAYS), MEMBERS.to_vec()),
        4 => (one_of(random, &GATEWAYS), vec![one_of(random, &NODES)]),
        _ => (one_of(random, &MEMBERS), MEMBERS.to_vec()),
    };
    let others: Vec<Host> = others.into_iter().filter(|other| *other != one).collect();
    if random.random() { Fault::Split { one, others } } else { Fault::Mute { from: one, to: others } }
}

fn draw_reset(random: &mut SmallRng) -> Fault {
    let (one, other) = match random.random_range(0..5) {
        0..=1 => (one_of(random, &GATEWAYS), one_of(random, &NODES)),
        2 => (one_of(random, &NODES), one_of(random, &MEMBERS)),
        3 => (one_of(random, &GATEWAYS), one_of(random, &MEMBERS)),
        _ => (Host::Clients, one_of(random, &GATEWAYS)),
    };
    Fault::Reset { one, other }
}

/// Most faults are short beside every deadline; some are not.
fn draw_duration(random: &mut SmallRng, fault: &Fault) -> Duration {
    match fault {
        Fault::Reset { .. } | Fault::Move { .. } => return Duration::ZERO,
        // Longer than a daemon may take to end in good order: what it does not end in that time is a finding.
        Fault::Stop { .. } => return Duration::from_millis(random.random_range(8_000..11_000)),
        _ => {}
    }
    let millis = match random.random_range(0..10) {
        0..=5 => random.random_range(200..2_500),
        6..=8 => random.random_range(2_500..8_000),
        _ => random.random_range(12_000..18_000),
    };
    Duration::from_millis(millis)
}

/// A daemon is taken away by one fault at a time, and of etcd one member: without a majority, nothing that is looked at here goes
/// on. While one is away another may lose packets: then there is one now and then.
fn is_bearable(stroke: &Stroke, strokes: &[Stroke]) -> bool {
    let meanwhile = || strokes.iter().filter(|other| stroke.at < other.at + other.lasts + Duration::from_millis(500));
    let cut_off = match stroke.fault {
        Fault::Loss { .. } => None,
        _ => stroke.fault.member(),
    };
    let Some(host) = stroke.fault.takes_away().or(cut_off) else {
        let repeats = |other: &Stroke| other.fault == stroke.fault && !stroke.lasts.is_zero();
        return !meanwhile().any(repeats);
    };
    let is_member = matches!(host, Host::Etcd(_));
    !meanwhile().any(|other| match other.fault.takes_away() {
        Some(away) => away == host || (is_member && matches!(away, Host::Etcd(_))),
        None => is_member && MEMBERS.iter().any(|member| other.fault.strikes(*member)),
    })
}

fn any(random: &mut SmallRng) -> Host {
    let hosts: Vec<Host> = Host::all().into_iter().filter(|host| *host != Host::Clients).collect();
    one_of(random, &hosts)
}

fn one_of(random: &mut SmallRng, hosts: &[Host]) -> Host {
    hosts[random.random_range(0..hosts.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHILE: Duration = Duration::from_secs(1_200);

    #[test]
    fn a_seed_has_one_schedule_and_another_seed_another() {
        assert_eq!(draw(7, WHILE), draw(7, WHILE));
        assert_ne!(draw(7, WHILE), draw(8, WHILE));
        // A shorter run is the beginning of a longer one, but for what its end cuts short.
        let (short, long) = (draw(7, Duration::from_secs(60)), draw(7, WHILE));
        assert!(short.iter().all(|short| long.iter().any(|long| short.at == long.at && short.fault == long.fault)));
    }

    #[test]
    fn every_kind_of_fault_comes_up_and_all_are_over_in_time() {
        let strokes = draw(1, WHILE);
        let mut kinds: Vec<_> = strokes.iter().map(|stroke| std::mem::discriminant(&stroke.fault)).collect();
        kinds.sort_by_key(|kind| format!("{kind:?}"));
        kinds.dedup();
        assert_eq!(kinds.len(), 12);
        assert!(strokes.iter().all(|stroke| stroke.at + stroke.lasts <= WHILE));
        for host in Host::all() {
            assert!(strokes.iter().any(|stroke| stroke.fault.strikes(host)), "{host}");
        }
    }

    #[test]
    fn a_daemon_is_taken_away_once_at_a_time_and_a_majority_of_etcd_stays() {
        for seed in 0..50 {
            let strokes = draw(seed, WHILE);
            for (number, stroke) in strokes.iter().enumerate() {
                let Some(host) = stroke.fault.takes_away() else { continue };
                for later in &strokes[number + 1..] {
                    let Some(other) = later.fault.takes_away() else { continue };
                    let both_members = matches!((host, other), (Host::Etcd(_), Host::Etcd(_)));
                    if other == host || both_members {
                        assert!(later.at > stroke.at + stroke.lasts, "seed {seed}: {stroke:?} and {later:?}");
                    }
                }
            }
        }
    }
}
