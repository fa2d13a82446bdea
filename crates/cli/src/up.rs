//! `landfast up`: a whole cell in one process, for a laptop or a machine of one's own.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfast_core::record::Phase;
use landfast_core::{NodeId, Problem};
use landfast_gateway::Stop;
use landfast_net::role::CancellationToken;
use landfast_registry::records;
use landfast_registry::store::Store;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::args::{Global, Up};
use crate::failure::Failure;
use crate::print::{Paint, line};
use crate::reach::{data_dir, record_url, said_dir};
use crate::roles::{Flags, Ground, Stops};

/// How long the parts without clients may take to stop: a write to the store, and the end of their tasks.
const STOPPING: Duration = Duration::from_secs(10);

/// The parts, in the order in which they are stopped.
struct Parts {
    gateway: (Stop, JoinHandle<()>),
    node: (CancellationToken, JoinHandle<()>),
    api: (CancellationToken, JoinHandle<()>),
}

/// What the first screen says.
struct Facts<'a> {
    program: &'a str,
    url: &'a str,
    data: &'a Path,
    is_default: bool,
    is_new: bool,
    isolation: &'a str,
    metrics: Option<SocketAddr>,
    instances: usize,
}

/// Runs the cell until it is told to stop.
///
/// # Errors
///
/// Why a part did not start, or ended by itself.
pub(crate) async fn up(global: &Global, args: Up, paint: Paint) -> Result<(), Failure> {
    let data = data_dir(global);
    let is_new = !data.join("cell.db").exists();
    let ground = Ground::open(global, args.config.as_deref())?;
    let mut stops = Stops::listen()?;

    // The gateway first: its address is the one that may be taken.
    let stop = Stop { drain: CancellationToken::new(), now: CancellationToken::new() };
    let mut config = ground.gateway(Flags::default().with("listen", args.listen)?)?;
    config.metrics_listen.get_or_insert(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let gateway = landfast_gateway::start(config, &ground.cell, ground.store.clone(), stop.clone()).await?;
    let (api_stop, node_stop) = (CancellationToken::new(), CancellationToken::new());
    let config = ground.api(&Flags::default())?;
    let api =
        landfast_registry::api::start(config, ground.cell.clone(), ground.store.clone(), api_stop.clone()).await?;
    let config = ground.node(Flags::default())?;
    let node =
        landfast_node::start(config, ground.cell.credential().clone(), ground.store.clone(), node_stop.clone()).await?;

    let url = format!("http://{}", reachable(gateway.address));
    record_url(&data, &url)
        .map_err(|error| Failure::local(format!("{} cannot be written: {error}.", data.display())))?;
    let isolation = isolation(&*ground.store, node.id).await?;
    let facts = Facts {
        program: &program(std::env::current_exe().ok(), std::env::var_os("PATH").as_deref()),
        url: &url,
        data: &data,
        is_default: said_dir(global).is_none(),
        is_new,
        isolation: &isolation,
        metrics: gateway.metrics,
        instances: running_on(&*ground.store, node.id).await?,
    };
    line(&first_screen(&facts, paint));

    let mut parts = Parts { gateway: (stop, gateway.done), node: (node_stop, node.done), api: (api_stop, api.done) };
    tokio::select! {
        () = stops.next() => {}
        part = parts.ended() => return Err(Failure::local(format!("The {part} ended by itself; the log says why."))),
    }
    let left = running_on(&*ground.store, node.id).await.unwrap_or_default();
    line(&goodbye(left));
    tokio::select! {
        () = parts.stop() => Ok(()),
        () = stops.next() => Err(Failure::local("Ended before it had stopped; instances go on.")),
    }
}

impl Parts {
    /// Waits until a part ends that nobody has stopped, and names it.
    async fn ended(&mut self) -> &'static str {
        tokio::select! {
            _ = &mut self.gateway.1 => "gateway",
            _ = &mut self.node.1 => "node",
            _ = &mut self.api.1 => "API server",
        }
    }

    /// Stops the parts, those with clients first.
    async fn stop(&mut self) {
        self.gateway.0.drain.cancel();
        // Bounded by the gateway's own drain timeout.
        let _ = (&mut self.gateway.1).await;
        self.node.0.cancel();
        self.api.0.cancel();
        let _ = timeout(STOPPING, async { tokio::join!(&mut self.node.1, &mut self.api.1) }).await;
    }
}

/// What another shell calls this program: by its name where that finds it, otherwise by its path.
fn program(this: Option<PathBuf>, path: Option<&OsStr>) -> String {
    let Some(this) = this else { return "landfast".to_owned() };
    let found = path.into_iter().flat_map(std::env::split_paths).map(|folder| folder.join("landfast"));
    match found.into_iter().find_map(|file| file.canonicalize().ok()) {
        Some(file) if file == this => "landfast".to_owned(),
        _ => this.display().to_string(),
    }
}

/// The address as a client on this machine dials it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn isolation(store: &dyn Store, id: NodeId) -> Result<String, Failure> {
    let node = records::node(store, id).await.map_err(Problem::from)?;
    Ok(node.map_or_else(|| "none: the node has no record".to_owned(), |(node, _)| node.isolation))
}

async fn running_on(store: &dyn Store, id: NodeId) -> Result<usize, Failure> {
    let instances = records::instances(store).await.map_err(Problem::from)?;
    let here = instances.iter().filter(|(instance, _)| instance.node == Some(id));
    Ok(here.filter(|(instance, _)| matches!(instance.phase, Phase::Running | Phase::Moving)).count())
}

fn first_screen(facts: &Facts<'_>, paint: Paint) -> String {
    let data = facts.data.display();
    let made = if facts.is_new { " (made now)" } else { "" };
    let isolation = match facts.isolation.strip_prefix("none") {
        None => facts.isolation.to_owned(),
        Some(why) => paint.bad(&format!(
            "NONE{}. Instances can read and change whatever this user can; run nothing you do not trust.",
            why.trim_end_matches('.')
        )),
    };
    let instances = match facts.instances {
        0 => String::new(),
        1 => "  instances  1 went on running and is taken back\n".to_owned(),
        n => format!("  instances  {n} went on running and are taken back\n"),
    };
    let metrics = facts.metrics.map(|address| format!("  metrics    http://{}/metrics\n", reachable(address)));
    let metrics = metrics.unwrap_or_default();
    let with = if facts.is_default { String::new() } else { format!(" --data {data}") };
    let landfast = format!("{}{with}", facts.program);
    format!(
        "{}\n\n  data       {data}{made}\n  API key    in {data}/api-key\n  isolation  {isolation}\n{metrics}{instances}\n\
         Next, in another terminal:\n  id=$({landfast} create)\n  {landfast} exec -t $id\n  {landfast} status\n",
        paint.strong(&format!("landfast is up at {}", facts.url))
    )
}

fn goodbye(instances: usize) -> String {
    let left = match instances {
        0 => "No instance runs.".to_owned(),
        1 => "1 instance goes on running; the next `landfast up` takes it back.".to_owned(),
        n => format!("{n} instances go on running; the next `landfast up` takes them back."),
    };
    format!("\nStopping. {left} Ctrl-C again ends now.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(isolation: &str, is_default: bool) -> String {
        let facts = Facts {
            program: "landfast",
            url: "http://127.0.0.1:7070",
            data: Path::new("/d"),
            is_default,
            is_new: true,
            isolation,
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))),
            instances: 2,
        };
        first_screen(&facts, Paint::none())
    }

    #[test]
    fn the_first_screen_says_where_it_is_and_what_to_do_next() {
        let screen = screen("bubblewrap", true);
        for part in [
            "http://127.0.0.1:7070",
            "/d/api-key",
            "isolation  bubblewrap",
            "metrics    http://127.0.0.1:9464/metrics",
            "id=$(landfast create)",
            "2 went on",
        ] {
            assert!(screen.contains(part), "{part} is missing in\n{screen}");
        }
    }

    #[test]
    fn a_lack_of_isolation_cannot_be_overlooked() {
        let screen = screen("none: bwrap is not installed", true);
        assert!(screen.contains("NONE: bwrap is not installed. Instances can read"), "{screen}");
    }

    #[test]
    fn the_next_commands_work_with_another_data_directory() {
        assert!(screen("bubblewrap", false).contains("landfast --data /d exec -t $id"));
    }

    #[test]
    fn the_next_commands_name_the_program_so_that_a_shell_finds_it() {
        let there = tempfile::tempdir().unwrap();
        let folder = there.path().canonicalize().unwrap();
        let file = folder.join("landfast");
        std::fs::write(&file, "").unwrap();
        let path = file.display().to_string();
        assert_eq!(program(Some(file.clone()), Some(folder.as_os_str())), "landfast");
        assert_eq!(program(Some(file), Some("/nowhere:/nor/here".as_ref())), path);
        assert_eq!(
            program(Some(folder.join("other")), Some(folder.as_os_str())),
            format!("{}", there.path().canonicalize().unwrap().join("other").display())
        );
    }

    #[test]
    fn an_address_that_listens_everywhere_is_dialled_here() {
        assert_eq!(reachable("0.0.0.0:80".parse().unwrap()).to_string(), "127.0.0.1:80");
        assert_eq!(reachable("10.0.0.1:80".parse().unwrap()).to_string(), "10.0.0.1:80");
    }
}
