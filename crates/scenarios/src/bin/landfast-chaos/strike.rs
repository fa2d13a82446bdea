//! Faults as they are brought about, and undone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use landfast_scenarios::fault_relay::FaultRelay;
use tokio::time::{Instant, sleep_until};

use crate::cell::Cell;
use crate::control::Control;
use crate::evidence::Struck;
use crate::plan::{APIS, Fault, GATEWAYS, Host, MEMBERS, NODES, Stroke};

/// How long everything may take to be up again after the last fault.
const RECOVERY: Duration = Duration::from_secs(60);

/// How often it is looked after daemons that have ended by themselves.
const LOOK: Duration = Duration::from_millis(250);

/// What brings faults about.
pub(crate) struct Striker<'a> {
    pub(crate) cell: &'a mut Cell,
    pub(crate) control: Control,
    /// The ways of clients to the gateways, by their numbers less one.
    pub(crate) lines: &'a [FaultRelay; 2],
    /// The beginning of the run, from which times are counted.
    pub(crate) started: Instant,
    /// The daemons that were asked to stop.
    stopping: BTreeSet<Host>,
    struck: Vec<Struck>,
    crashes: Vec<String>,
}

/// What is due next.
enum Due {
    Begin(usize),
    End(usize),
    Look,
}

impl<'a> Striker<'a> {
    pub(crate) fn new(cell: &'a mut Cell, control: Control, lines: &'a [FaultRelay; 2], started: Instant) -> Self {
        Self { cell, control, lines, started, stopping: BTreeSet::new(), struck: Vec::new(), crashes: Vec::new() }
    }

    /// Brings all of a schedule about, and ends with everything whole again. Says what was struck when, and what ended by itself.
    pub(crate) async fn rage(mut self, strokes: &[Stroke]) -> Result<(Vec<Struck>, Vec<String>)> {
        let begins = Instant::now();
        let mut dues: Vec<(Duration, usize, bool)> = Vec::new();
        for (number, stroke) in strokes.iter().enumerate() {
            dues.push((stroke.at, number, false));
            dues.push((stroke.at + stroke.lasts, number, true));
        }
        dues.sort();
        let mut begun: Vec<Option<Duration>> = vec![None; strokes.len()];
        let mut dues = dues.into_iter().peekable();
        while let Some((at, number, ends)) = dues.peek().copied() {
            let due = match (begins + at > Instant::now() + LOOK, ends) {
                (true, _) => Due::Look,
                (false, false) => Due::Begin(number),
                (false, true) => Due::End(number),
            };
            match due {
                Due::Look => {
                    sleep_until(Instant::now() + LOOK).await;
                    self.look_after().await?;
                }
                Due::Begin(number) => {
                    dues.next();
                    sleep_until(begins + at).await;
                    begun[number] = Some(self.started.elapsed());
                    eprintln!("{:7.2} {:?} for {:.1?}", at.as_secs_f64(), strokes[number].fault, strokes[number].lasts);
                    self.begin(number, &strokes[number].fault).await?;
                }
                Due::End(number) => {
                    dues.next();
                    sleep_until(begins + at).await;
                    self.end(number, &strokes[number].fault).await?;
                    let Some(from) = begun[number] else { continue };
                    let to = self.started.elapsed();
                    self.struck.push(Struck { fault: strokes[number].fault.clone(), from, to });
                }
            }
        }
        for host in MEMBERS.into_iter().chain(APIS).chain(GATEWAYS).chain(NODES) {
            while let Err(error) = self.cell.is_ready(host, RECOVERY).await {
                // Whoever keeps daemons starts again what gave up before it was ready.
                if begins.elapsed() > strokes.last().map_or(Duration::ZERO, |last| last.at) + 3 * RECOVERY {
                    return Err(error);
                }
                self.cell.launch(host)?;
            }
        }
        Ok((self.struck, self.crashes))
    }

    async fn begin(&mut self, number: usize, fault: &Fault) -> Result<()> {
        let name = format!("f{number}");
        match fault {
            Fault::Mute { from, to } => {
                for host in to {
                    self.cell.hosts.drop_packets(&name, *from, *host)?;
                }
            }
            Fault::Split { one, others } => {
                for host in others {
                    self.cell.hosts.drop_packets(&name, *one, *host)?;
                    self.cell.hosts.drop_packets(&name, *host, *one)?;
                }
            }
            Fault::Loss { host, percent } => self.cell.hosts.lose_packets(&name, *host, *percent)?,
            Fault::Reset { one, other } => self.cell.hosts.reset(*one, *other)?,
            Fault::Freeze { host } => self.cell.freeze(*host),
            Fault::Kill { host } => {
                self.cell.kill(*host).await?;
                self.lead_lines(Some(*host));
            }
            Fault::Stop { host } => {
                self.cell.stop(*host);
                self.stopping.insert(*host);
                self.lead_lines(Some(*host));
            }
            Fault::Move { pick } => self.control.spawn_move(*pick),
            Fault::Drain { host } => self.control.spawn_drain(*host, true),
            Fault::FullDisk => fill(&self.filler()),
            Fault::Clock { host, minutes } => self.cell.set_clock(*host, *minutes)?,
            Fault::Slow { gateway, delay } => self.line(*gateway).delay(*delay),
        }
        Ok(())
    }

    async fn end(&mut self, number: usize, fault: &Fault) -> Result<()> {
        let name = format!("f{number}");
        match fault {
            Fault::Mute { to, .. } => to.iter().for_each(|host| self.cell.hosts.clear(&name, *host)),
            Fault::Split { one, others } => {
                self.cell.hosts.clear(&name, *one);
                others.iter().for_each(|host| self.cell.hosts.clear(&name, *host));
            }
            Fault::Loss { host, .. } => self.cell.hosts.clear(&name, *host),
            Fault::Freeze { host } => self.cell.thaw(*host),
            Fault::Kill { host } => {
                self.cell.launch(*host)?;
                self.lead_lines(None);
            }
            Fault::Stop { host } => {
                self.stopping.remove(host);
                match self.cell.runs(*host) {
                    Err(ended) if ended.is_success => {}
                    Err(ended) => self.crashes.push(format!("asked to stop: {}", ended.how)),
                    Ok(_) => {
                        self.crashes.push(format!("{host} does not stop when it is asked to"));
                        self.cell.kill(*host).await?;
                    }
                }
                self.cell.launch(*host)?;
                self.lead_lines(None);
            }
            Fault::Drain { host } => self.control.spawn_drain(*host, false),
            Fault::FullDisk => std::fs::remove_file(self.filler())?,
            Fault::Clock { host, .. } => self.cell.set_clock(*host, 0)?,
            Fault::Slow { gateway, .. } => self.line(*gateway).delay(Duration::ZERO),
            Fault::Reset { .. } | Fault::Move { .. } => {}
        }
        Ok(())
    }

    /// Starts again what has ended by itself. That is a crash, unless it was not ready yet: then what it needs was away.
    async fn look_after(&mut self) -> Result<()> {
        for host in MEMBERS.into_iter().chain(APIS).chain(GATEWAYS).chain(NODES) {
            if self.stopping.contains(&host) {
                continue;
            }
            if let Err(ended) = self.cell.runs(host) {
                if ended.was_ready {
                    self.crashes.push(ended.how);
                }
                self.cell.launch(host)?;
            }
        }
        Ok(())
    }

    /// Leads the link-aware clients' lines as whoever balances load does: away from a gateway that is down, and back.
    fn lead_lines(&self, down: Option<Host>) {
        for (line, number) in self.lines.iter().zip([1, 2]) {
            let other = 3 - number;
            let target = if down == Some(Host::Gateway(number)) { other } else { number };
            line.lead_to(Cell::gateway(target));
        }
    }

    fn line(&self, gateway: Host) -> &FaultRelay {
        &self.lines[usize::from(gateway != Host::Gateway(1))]
    }

    fn filler(&self) -> PathBuf {
        self.cell.disks()[1].join("filler")
    }
}

/// Writes a file until nothing more fits.
fn fill(path: &PathBuf) {
    let piece = vec![0; 1 << 20];
    if let Ok(mut file) = std::fs::File::create(path) {
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
    }
}
