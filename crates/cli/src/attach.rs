//! `exec` and `attach`: what ssh does, to a process that may move while it runs.

use std::io::{self, IsTerminal};
use std::time::Duration;

use landfast_client::{Attach, Client, ExitStatus, From, Process, StartProcess, Stdin, Tty};
use landfast_core::InstanceId;
use tokio::time::timeout;

use crate::args::{AttachArgs, Exec};
use crate::console::{self, Joined, Outcome, Wants};
use crate::failure::{Failure, TRANSPORT};
use crate::print::Paint;
use crate::terminal;
use crate::verbs::only_running;

/// How long hanging up may take when we leave; a cell out of reach must not keep a person who wants to go.
const HANG_UP: Duration = Duration::from_secs(1);

/// How long to go on dialling with a person at the terminal, who can leave at any time: a night with the lid closed.
const PATIENCE_OF_A_PERSON: Duration = Duration::from_secs(24 * 3600);

/// How a shell says that the reader of a pipe has gone: 128 + SIGPIPE.
const PIPE_CLOSED: u8 = 141;

/// `landfast exec`. Returns the exit code.
///
/// # Errors
///
/// The refusal, or the transport's failure.
pub(crate) async fn exec(client: &Client, exec: Exec, paint: Paint) -> Result<u8, Failure> {
    if exec.command.is_empty() && !exec.tty {
        return Err(Failure::usage("No command. Write one behind the instance, or -t for a shell."));
    }
    let input = exec.interactive || exec.tty;
    let (rows, cols) = terminal::size().unwrap_or((24, 80));
    let wish = StartProcess {
        argv: if exec.command.is_empty() { login_shell() } else { exec.command },
        env: exec.env.into_iter().chain(exec.tty.then(term).flatten()).collect(),
        cwd: exec.cwd,
        tty: exec.tty.then_some(Tty { rows, cols }),
        stdin: Some(if input { Stdin::Open } else { Stdin::Closed }),
        lossless: true,
        ..StartProcess::default()
    };
    let process = client.start_process(exec.id, &wish).await?;
    let wants = Wants { tty: exec.tty, input, eof: input, forward_interrupt: true };
    let joined = join(client, exec.id, &process, From::Start, wants).await?;
    let hang_up = match joined.outcome {
        Outcome::Left | Outcome::OutputClosed | Outcome::Signalled(_) => true,
        Outcome::Exited(_) | Outcome::Detached => false,
    };
    let hung_up = hang_up && matches!(timeout(HANG_UP, client.signal(exec.id, process.id, "HUP")).await, Ok(Ok(())));
    let code = end(joined.outcome, exec.id, &process, hung_up, paint);
    if joined.evicted > 0 && !exec.tty {
        // A pipe with a hole in it must not look whole.
        return Err(Failure {
            code: TRANSPORT,
            text: format!("{} The command's own exit code is {code}.", evicted(joined.evicted)),
        });
    }
    Ok(code)
}

/// `landfast attach`. Returns the exit code.
///
/// # Errors
///
/// The refusal, or the transport's failure.
pub(crate) async fn attach(client: &Client, wish: &AttachArgs, paint: Paint) -> Result<u8, Failure> {
    let process = match wish.process {
        Some(process) => client.process(wish.id, process).await?,
        None => only_running(client, wish.id).await?,
    };
    let tty = process.tty.is_some();
    let from = wish.from.unwrap_or(if tty { From::Screen } else { From::Start });
    // Somebody else started it: neither our end of input nor our interrupt is its end.
    let wants = Wants { tty, input: !wish.read_only, eof: false, forward_interrupt: false };
    let joined = join(client, wish.id, &process, from, wants).await?;
    if joined.evicted > 0 && !tty {
        eprintln!("landfast: {}", evicted(joined.evicted));
    }
    Ok(end(joined.outcome, wish.id, &process, false, paint))
}

async fn join(
    client: &Client,
    instance: InstanceId,
    process: &Process,
    from: From,
    wants: Wants,
) -> Result<Joined, Failure> {
    let mut how = Attach::from(from);
    how.input = wants.input || wants.forward_interrupt;
    how.redraw = wants.tty;
    if wants.tty && io::stdin().is_terminal() {
        how.patience = PATIENCE_OF_A_PERSON;
    }
    let attached = client.attach(instance, process.id, how).await?;
    console::join(attached, wants).await
}

/// A process is never held back by who watches it: what it says too fast for the way to us is not kept for ever.
fn evicted(bytes: u64) -> String {
    format!(
        "{bytes} bytes of output are missing: they were no longer kept when it was their turn. Have the command say it \
         more slowly, or write to a file that is read in parts of less than 4 MB."
    )
}

/// Says what the person who left should know, and gives the exit code.
fn end(outcome: Outcome, instance: InstanceId, process: &Process, hung_up: bool, paint: Paint) -> u8 {
    let code = match outcome {
        // Beyond a byte no exit code exists; the low one is what every shell shows.
        Outcome::Exited(ExitStatus(code)) => return code as u8,
        // Without an exit status there is no success, as with ssh; who detaches asked for none.
        Outcome::Left => TRANSPORT,
        Outcome::Detached => 0,
        Outcome::OutputClosed => PIPE_CLOSED,
        Outcome::Signalled(number) => 128 + u8::try_from(number).unwrap_or(0),
    };
    if terminal::is_seen() {
        let what = if hung_up { "was hung up" } else { "goes on" };
        let hint = format!("landfast: {} {what}; landfast attach {instance} {0} shows it", process.id);
        // The process may have left the cursor inside a line.
        let newline = if process.tty.is_some() { "\n" } else { "" };
        eprintln!("{newline}{}", paint.faint(&hint));
    }
    code
}

/// The shell of whoever asks for none in particular: bash where there is one.
fn login_shell() -> Vec<String> {
    let find = "command -v bash >/dev/null && exec bash -l; exec sh -l";
    ["/bin/sh", "-c", find].map(str::to_owned).to_vec()
}

/// What the local terminal understands.
fn term() -> Option<(String, String)> {
    std::env::var("TERM").ok().filter(|term| !term.is_empty()).map(|term| ("TERM".to_owned(), term))
}
