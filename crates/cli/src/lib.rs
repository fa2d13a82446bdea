//! The `landfast` binary: one subcommand per role, and the verbs people use.
//!
//! It is a library with a thin program around it, so that tests can run the very same program under another name.

mod admin;
pub mod args;
mod attach;
mod authority;
pub mod config;
mod console;
mod cp;
mod demo;
mod escape;
mod events;
mod failure;
mod forward;
mod logging;
mod netcheck;
mod notice;
mod operate;
mod print;
mod reach;
mod roles;
mod screen;
mod status;
mod terminal;
mod up;
mod verbs;
mod wish;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::args::{Cli, Command, Global, NodeVerb};
use crate::failure::Failure;
use crate::print::Paint;

/// How long a thread for the disk waits for more: work comes in bursts, and a thousand agents would keep a thousand threads
/// for nothing.
const DISK_THREAD_KEPT: Duration = Duration::from_secs(1);

/// The program: parses the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let no_color = cli.global.no_color;
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("{} {failure}", Paint::stderr(no_color).bad("landfast:"));
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<u8, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::visible(), "landfast", &mut script);
            print::line(&String::from_utf8_lossy(&script));
            Ok(0)
        }
        Command::DemoPeer(args) => demo::peer::run(&args).map(|()| 0),
        Command::Ca(wish) => authority::ca(&wish).map(|()| 0),
        Command::Agent(args) => {
            logging::begin("info")?;
            // One thread: an agent stands beside every instance, and does little but copy.
            let runtime = started(Builder::new_current_thread())?;
            runtime.block_on(roles::agent(args)).map(|()| 0)
        }
        command => {
            logging::begin(level(&command))?;
            let runtime = started(Builder::new_multi_thread())?;
            let result = runtime.block_on(dispatch(&global, command));
            // A thread that still waits for standard input must not keep the program.
            runtime.shutdown_background();
            result
        }
    }
}

fn started(mut builder: Builder) -> Result<Runtime, Failure> {
    builder.enable_all().thread_keep_alive(DISK_THREAD_KEPT).build().map_err(|error| {
        Failure::local(format!("The runtime cannot start: {error}. Raise the limits of processes and open files."))
    })
}

async fn dispatch(global: &Global, command: Command) -> Result<u8, Failure> {
    let paint = Paint::stdout(global.no_color);
    let hints = Paint::stderr(global.no_color);
    let client = || reach::client(global);
    match command {
        Command::Up(args) => up::up(global, args, paint).await?,
        Command::Api(args) => roles::api(global, args).await?,
        Command::Gateway(args) => roles::gateway(global, args).await?,
        Command::Node(args) => match args.verb {
            None => roles::node(global, args.node).await?,
            Some(NodeVerb::Ls(ls)) => verbs::node_ls(&client()?, &ls, paint).await?,
            Some(NodeVerb::Drain { node }) => admin::drain(&client()?, &node).await?,
            Some(NodeVerb::Undrain { node }) => admin::undrain(&client()?, &node).await?,
        },
        Command::Create(args) => verbs::create(&client()?, &args, hints).await?,
        Command::Ls(args) => verbs::ls(&client()?, &args, paint).await?,
        Command::Get(args) => verbs::get(&client()?, &args).await?,
        Command::Exec(args) => return attach::exec(&client()?, args, hints).await,
        Command::Attach(args) => return attach::attach(&client()?, &args, hints).await,
        Command::Cp(args) => cp::cp(&client()?, &args).await?,
        Command::Events(args) => events::events(&client()?, &args, paint).await?,
        Command::Logs(args) => events::logs(&client()?, &args, hints).await?,
        Command::Services(args) => operate::services(&client()?, &args, paint).await?,
        Command::Forward(args) => forward::forward(&client()?, args, hints).await?,
        Command::Sleep(args) => operate::sleep(&client()?, &args).await?,
        Command::Wake(args) => operate::wake(&client()?, &args).await?,
        Command::External(args) => operate::external(&client()?, args).await?,
        Command::Move(args) => verbs::r#move(&client()?, &args).await?,
        Command::Rm(args) => verbs::rm(&client()?, &args).await?,
        Command::Stop(args) => verbs::stop(&client()?, &args).await?,
        Command::Key(args) => admin::key(&client()?, args, paint).await?,
        Command::Token(args) => verbs::token(&client()?, args).await?,
        Command::Status(args) => status::status(&client()?, &reach::url(global), &args, paint).await?,
        Command::Netcheck(args) => netcheck::netcheck(&reach::client_or_stranger(global)?, &args, paint).await?,
        Command::Demo(args) => demo::run(&args, paint).await?,
        Command::Agent(_) | Command::Ca(_) | Command::DemoPeer(_) | Command::Completion { .. } => {
            unreachable!("these need no cell")
        }
    }
    Ok(0)
}

/// What is logged where `LANDFAST_LOG` says nothing: a role's life; of all else only what went wrong.
const fn level(command: &Command) -> &'static str {
    let is_role = match command {
        Command::Api(_) | Command::Gateway(_) => true,
        Command::Node(args) => args.verb.is_none(),
        _ => false,
    };
    if is_role { "info" } else { "warn" }
}
