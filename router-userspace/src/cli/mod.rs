//! The command line: reads the pinned maps, and needs no daemon for it.

pub mod args;
pub mod chat;
pub mod chats;
pub mod check;
pub mod counters;
pub mod dump;
pub mod explain;
pub mod flows;
pub mod form;
pub mod output;
pub mod services;
pub mod sources;
pub mod status;
pub mod table;

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use serde::Serialize;

pub use args::{Cli, Command};
use dump::MapsCommand;
use output::{Report, print};

use crate::{
    attach::loader,
    daemon::{self, RunArgs},
    maps::tables::Tables,
    view,
};

/// Runs a command.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { output: format, pin_dir, command } = cli;
    let open = || Tables::open(&pin_dir).map_err(anyhow::Error::from);
    match command {
        Command::Run(args) => run_daemon(args, &pin_dir),
        Command::Detach => print(format, &DetachReport { removed: loader::detach(&pin_dir)? }),
        Command::Check(args) => {
            let report = view::check::check(&args.look_at(), &pin_dir);
            print(format, &report)?;
            return Ok(if report.fails > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        Command::Status => print(format, &view::overview::overview(&open()?, &pin_dir)?),
        Command::Services => print(format, &view::services::services(&open()?)?),
        Command::Replicas => print(format, &view::services::replicas(&open()?)?),
        Command::Chats(args) => {
            let (service, key) = (args.service.as_deref(), args.key.as_deref());
            print(format, &view::chats::chats(&open()?, service, key)?)
        }
        Command::Flows(args) => print(format, &view::flows::flows(&open()?, args.which())?),
        Command::Sources(args) => print(format, &view::sources::sources(&open()?, args.top)?),
        Command::Counters { all } => print(format, &view::counters::counters(&open()?, all)?),
        Command::Explain(args) => print(format, &explain::explain(&open()?, &args)?),
        Command::Chat(command) => chat::run(format, &mut open()?, &command),
        Command::Maps(MapsCommand::List) => print(format, &view::dump::list(&open()?, &pin_dir)?),
        Command::Maps(MapsCommand::Dump { map }) => {
            print(format, &view::dump::dump(&open()?, map)?)
        }
        Command::Completions { shell } => completions(shell),
        Command::Man { dir: None } => manual_page(),
        Command::Man { dir: Some(dir) } => manual_pages(&dir),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn run_daemon(args: RunArgs, pin_dir: &Path) -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(daemon::run(args, pin_dir))
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "roost", &mut script);
    output::print_text(&String::from_utf8_lossy(&script))
}

fn manual_page() -> Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    output::print_text(&String::from_utf8_lossy(&page))
}

fn manual_pages(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .with_context(|| format!("cannot write manual pages to {}", dir.display()))
}

/// What `roost detach` prints.
#[derive(Debug, Serialize)]
struct DetachReport {
    removed: Vec<String>,
}

impl Report for DetachReport {
    fn text(&self) -> String {
        if self.removed.is_empty() {
            return "nothing of roost is there\n".to_owned();
        }
        self.removed.iter().map(|what| format!("removed {what}\n")).collect()
    }
}
