//! The command line: what a person types, what they are told, and the exit code.
//!
//! 0 is success, 2 a mistake in flags, environment or file, 74 a disk that failed while it was used (what the disk
//! holds is found out at the next start), 1 everything else that went wrong; those of `ctl` are RabbitMQ's. The only room
//! that reads the configuration file and the environment. It knows the rooms below by their entry points.

mod advice;
mod args;
mod ctl;
mod definitions;
mod fsck;
mod load;
mod logging;
mod rabbitmq;
mod reload;
mod serve;
mod supervisor;
mod web;

use std::fmt::{self, Display};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::bench;
use crate::cli::args::{Args, Command};
use crate::cli::load::load;
use crate::cli::reload::Reload;

/// EX_IOERR of sysexits.h.
const EXIT_IO_ERROR: u8 = 74;

const NO_DATA_DIR: &str =
    "nowhere to keep what is durable: set --data-dir, or one of XDG_STATE_HOME and HOME for a default";

/// Why a command ended without success.
#[derive(Debug)]
enum Failure {
    /// The person must change what they wrote.
    Usage(String),
    /// Something went wrong while running.
    Runtime(anyhow::Error),
    /// The command ran and said itself what is wrong.
    Told,
    /// The store failed under a running broker, whose log has said why.
    Store,
    /// The disk does not do what it is asked.
    Disk(anyhow::Error),
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) => f.write_str(why),
            Self::Runtime(error) | Self::Disk(error) => write!(f, "{error:#}"),
            Self::Told | Self::Store => f.write_str("the log says why"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Runtime(error)
    }
}

/// Parses the arguments, runs the command and says in one sentence what went wrong.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some((tool, words)) = as_ctl(&words) {
        return ctl::run(tool, words);
    }
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => {
            tell(&why);
            ExitCode::from(2)
        }
        Err(Failure::Runtime(error)) => {
            tell(&format!("{error:#}"));
            ExitCode::FAILURE
        }
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Store) => ExitCode::from(EXIT_IO_ERROR),
        Err(Failure::Disk(error)) => {
            tell(&format!("{error:#}"));
            ExitCode::from(EXIT_IO_ERROR)
        }
    }
}

/// What is typed for a running broker, whose words are RabbitMQ's and not ours: `sluicemq ctl ...`, or one of its tools'
/// names instead of ours.
fn as_ctl(words: &[String]) -> Option<(ctl::Tool, &[String])> {
    let (program, rest) = words.split_first()?;
    match (ctl::tool_of(program), rest.split_first()) {
        (Some(tool), _) => Some((tool, rest)),
        (None, Some((word, rest))) if word == "ctl" => Some((ctl::Tool::Ctl, rest)),
        _ => None,
    }
}

fn run(args: Args) -> Result<(), Failure> {
    match args.command.unwrap_or(Command::Serve(args.settings)) {
        Command::Serve(settings) => {
            let mut loaded = load(&settings).map_err(Failure::Usage)?;
            if loaded.config.data_dir.is_none() {
                return Err(Failure::Usage(NO_DATA_DIR.to_owned()));
            }
            let reload = Reload::new(settings, loaded.config.clone());
            let definitions = definitions::read(&mut loaded.config)?;
            logging::start(&loaded.config.log);
            tracing::info!("SluiceMQ {}", env!("CARGO_PKG_VERSION"));
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            serve::run(loaded.config, definitions, reload)?;
        }
        Command::Config(settings) => {
            let loaded = load(&settings).map_err(Failure::Usage)?;
            for warning in &loaded.warnings {
                tell(warning);
            }
            print(&loaded.config.to_commented_toml())?;
        }
        Command::Fsck(args) => fsck::run(&args)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "sluicemq", &mut script);
            print(&String::from_utf8_lossy(&script))?;
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Args::command()).render(&mut page).context("cannot make the page")?;
            print(&String::from_utf8_lossy(&page))?;
        }
        // It has been seen before the others are looked for.
        Command::Ctl { .. } => {}
        Command::Bench(args) => {
            args.check().map_err(Failure::Usage)?;
            if !bench::run(&args)? {
                return Err(Failure::Told);
            }
        }
    }
    Ok(())
}

fn tell(what: &dyn Display) {
    // Nobody is left to be told when stderr is closed.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("sluicemq: {what}\n"));
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()).context("cannot write to stdout")
}
