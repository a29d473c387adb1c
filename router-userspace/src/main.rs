//! `roost`: the daemon and the command line in one binary.

use std::process::ExitCode;

use clap::Parser as _;
use roost::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(status) => status,
        Err(error) => {
            cli::output::print_error(&error);
            ExitCode::FAILURE
        }
    }
}
