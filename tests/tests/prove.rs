//! Short versions of `cargo xtask prove`. What depends on how fast this machine is just now is not asked for.

use anyhow::{Context, Result, ensure};
use roost_programs::built;
use serde_json::Value;

/// Runs a scenario; what it has measured. It ends with success if, and only if, it held.
fn prove(args: &[&str]) -> Result<Value> {
    let mut command = built(env!("CARGO_BIN_EXE_roost-prove"))?;
    let output = command.args(args).arg("--json").env("RUST_BACKTRACE", "0").output()?;
    let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    let last = stdout.lines().last().with_context(|| format!("nothing on stdout:\n{stderr}"))?;
    let result: Value = serde_json::from_str(last).with_context(|| last.to_owned())?;
    // The test shows it if it fails.
    println!("{stderr}{stdout}");
    ensure!(result["scenario"] == args[0], "{result}");
    ensure!(result["ok"] == output.status.success(), "{}: {result}", output.status);
    Ok(result)
}

#[test]
fn a_scenario_that_does_not_hold_says_so() -> Result<()> {
    // Nobody waits for them to go.
    let result = prove(&["half-dead", "--flows", "10", "--seconds", "0"])?;
    ensure!(result["ok"] == false && result["flows_left"] == 10, "{result}");
    Ok(())
}

#[test]
fn no_client_fails_beside_a_flood() -> Result<()> {
    let result = prove(&["flood", "--rate", "20000", "--rounds", "1", "--seconds", "1"])?;
    for kind in ["syn", "ack", "ack_data"] {
        for what in ["refused", "failed"] {
            ensure!(result[format!("{kind}_{what}")] == 0, "{kind}, {what}: {result}");
        }
        // It was there.
        let met = result[format!("{kind}_met")].as_u64();
        ensure!(met.is_some_and(|met| met > 5000), "{kind}: {result}");
    }
    Ok(())
}

#[test]
fn heads_of_any_shape_keep_chats_whole() -> Result<()> {
    let result = prove(&["heads", "--fronts", "roost", "--chats", "10"])?;
    ensure!(result["ok"] == true && result["roost_parts_60"] == 1, "{result}");
    Ok(())
}

#[test]
fn who_dribbles_gets_a_share_of_the_room_for_heads() -> Result<()> {
    let words = "dribble --clients 200 --stash 64 --seconds 8 --honest 60";
    let result = prove(&words.split(' ').collect::<Vec<_>>())?;
    ensure!(result["failed"] == 0 && result["ok"] == true, "{result}");
    // It was about something.
    ensure!(result["heads"].as_f64() >= Some(30.0), "{result}");
    Ok(())
}

#[test]
fn requests_of_others_are_counted_where_they_arrive() -> Result<()> {
    let words = "requests --fronts stay,reset --rows alone,shared,curl --chats 12 --tabs 2";
    let result = prove(&words.split(' ').collect::<Vec<_>>())?;
    for (name, all) in [("whole", 12), ("reached", 24), ("once", 48), ("lost", 0)] {
        ensure!(result[format!("reset_alone_{name}")] == all, "{name}: {result}");
    }
    // curl asks again by itself, and by one connection that stays all chats are together.
    ensure!(result["reset_curl_once"] == 24 && result["stay_curl_connections"] == 1, "{result}");
    // What it is about is seen.
    ensure!(result["stay_shared_whole"].as_u64() < Some(12), "{result}");
    Ok(())
}

#[test]
fn requests_are_counted_through_a_proxy_that_uses_connections_again() -> Result<()> {
    let result = prove(&["rate", "--rounds", "1", "--seconds", "1"])?;
    // Roost, HAProxy and nobody in the same place, each with many chats and with one.
    let value = |name: &str| result[name].as_f64().unwrap_or_default();
    for front in ["roost", "haproxy", "nobody"] {
        for (row, chats) in [("many", 200.0), ("one", 1.0)] {
            let whole = value(&format!("{front}_{row}_whole"));
            ensure!(whole == chats, "{front}, {row}: {result}");
        }
    }
    ensure!(result["ok"] == true && value("rebound") > 0.0, "{result}");
    Ok(())
}

#[test]
fn many_flows_are_entered_and_listed() -> Result<()> {
    let result = prove(&["million", "--flows", "20000", "--seconds", "1"])?;
    ensure!(result["listed"] == 20_000, "{result}");
    let cpu = result["daemon_cpu_percent"].as_f64();
    ensure!(cpu.is_some_and(|cpu| cpu < 50.0), "{result}");
    Ok(())
}

#[test]
fn many_nodes_are_watched() -> Result<()> {
    let result = prove(&["nodes", "--nodes", "700", "--seconds", "1"])?;
    ensure!(result["nodes"] == 700 && result["heartbeats"].as_f64() > Some(0.0), "{result}");
    let memory = result["memory_more_mb"].as_f64();
    ensure!(memory.is_some_and(|memory| memory < 64.0), "{result}");
    Ok(())
}

#[test]
fn connections_come_and_go_without_the_daemon() -> Result<()> {
    let result = prove(&["orphan", "--flows", "500", "--rate-seconds", "0"])?;
    ensure!(result["ok"] == true && result["opened"] == 10_000, "{result}");
    Ok(())
}

#[test]
fn silent_clients_hear_that_their_connections_live() -> Result<()> {
    // Unanswered they would have ended a second before.
    let args = ["keepalive", "--keepalive", "1", "--seconds", "5", "--forgotten", "0"];
    let result = prove(&args)?;
    ensure!(result["ok"] == true && result["served"] == 20, "{result}");
    Ok(())
}

#[test]
fn who_claims_random_keys_gets_a_share_and_others_notice_nothing() -> Result<()> {
    let words = "random-keys --chats 800 --rate 1000 --others 40 --honest 1000 --prefixes 1000";
    let result = prove(&words.split(' ').collect::<Vec<_>>())?;
    ensure!(result["ok"] == true, "{result}");
    let refused = result["claims_refused"].as_u64();
    ensure!(refused.is_some_and(|refused| refused >= 300), "{result}");
    Ok(())
}

#[test]
fn half_dead_connections_and_their_chats_leave_without_the_daemon() -> Result<()> {
    let service = "replica_closed_timeout = \"2s\"\nlinger = \"1s\"";
    let result = prove(&["half-dead", "--flows", "300", "--service", service])?;
    ensure!(result["ok"] == true, "{result}");
    Ok(())
}
