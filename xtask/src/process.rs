//! Running other programs, with errors that say what was run and how its output ended.

use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Error, Result, bail};

/// How much of a failed program's output an error repeats.
const TAIL_LINES: usize = 20;

/// Tells the user what is going on. On stderr: stdout belongs to the demo and the benchmarks.
pub fn say(message: impl Display) {
    eprintln!("xtask: {message}");
}

/// Runs a program that shows its own progress. Its stdout goes to stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    run_with_stdout(command.stdout(Stdio::from(stderr)))
}

/// Like [`run`], but leaves stdout as it is.
pub fn run_with_stdout(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running `{}`", show(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status}); its output is above", show(command));
    }
    Ok(())
}

/// Runs a program silently; an error carries the end of what it wrote.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a program and returns what it wrote to stdout.
pub fn read(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let text = String::from_utf8(output.stdout);
    text.with_context(|| format!("`{}` wrote something that is not UTF-8", show(command)))
}

fn output(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("running `{}`", show(command)))?;
    if !output.status.success() {
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!("`{}` failed ({}):\n{}", show(command), output.status, tail(&said, TAIL_LINES));
    }
    Ok(output)
}

/// Becomes another program. Returns only if that is not possible.
pub fn exec(command: &mut Command) -> Error {
    let error = command.exec();
    Error::new(error).context(format!("running `{}`", show(command)))
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use roost_programs::SH;

    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn an_error_carries_command_and_output() {
        let mut shell = SH.command().expect("sh");
        let error = run_quietly(shell.args(["-c", "echo no such luck >&2; exit 3"]));
        let text = format!("{:#}", error.expect_err("exit status 3"));
        assert!(text.contains("sh -c") && text.contains("no such luck"), "{text}");
        assert!(text.contains("exit status: 3"), "{text}");
    }
}
