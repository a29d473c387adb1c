//! What explains the result, and what to try next.

use std::fmt::Write as _;

use anyhow::Result;

use super::round::Round;
use super::show;
use crate::lab::{Family, Lab, Roost, UPLINK, binary};

/// The maps that explain where the chats are, as the command line shows them.
pub(super) fn explanation(roost: &Roost, round: &Round) -> Result<String> {
    let mut text = show::heading("why", "the maps of the data path, read from the kernel");
    let chat = round.chats.first().map_or("", |chat| chat.name.as_str());
    for args in [
        &["replicas"] as &[&str],
        &["chats"],
        &["explain", "--service", "chat", "--key", chat],
        &["maps", "dump", "SERVICES"],
        &["maps", "dump", "CHATS"],
    ] {
        text += &show::command(&format!("roost {}", args.join(" ")), &roost.text(args)?);
    }
    Ok(text)
}

/// What can be done while everything runs.
pub(super) fn next_steps(lab: &Lab, roost: &Roost) -> Result<String> {
    let vip = lab.vip(Family::V4);
    let vip6 = lab.vip(Family::V6);
    let chat = binary("roost-chat", "ROOST_CHAT_BIN")?;
    let chat = chat.display();
    let program = roost.binary().display();
    let config = roost.config().display();
    let pins = roost.pin_dir().display();
    let node = lab.node.name();
    let pid = roost.pid();
    let mut text = show::heading("everything is left running", "Ctrl-C ends it and cleans up");
    let mut step = |what: &str, commands: &[String]| {
        let _ = writeln!(text, "  {what}");
        for command in commands {
            let _ = writeln!(text, "    {command}");
        }
        text.push('\n');
    };
    step(
        "Open it in a browser on this machine, in three tabs; write in one:",
        &[format!("http://{vip}/?chat=lobby"), format!("http://[{vip6}]/?chat=garden")],
    );
    step(
        "In a browser elsewhere, through ssh to this machine: http://localhost:8080/?chat=lobby",
        &[format!("ssh -L 8080:{vip}:80 THIS-MACHINE")],
    );
    step(
        "This machine is a client too: it has a route to the VIP. The same chat, the same replica:",
        &[
            format!("curl -s 'http://{vip}/whoami?chat=lobby'"),
            format!("curl -s 'http://[{vip6}]/whoami?chat=lobby'"),
            format!("{chat} tab --url 'ws://{vip}/ws?chat=lobby' --say hello"),
        ],
    );
    step(
        "Thousands of tabs over hundreds of chats (a message in each is counted where it is heard):",
        &[format!("{chat} load --url ws://{vip}/ws --tabs 2000 --chats 200 --say --hold 30")],
    );
    step(
        "Look into the kernel's maps, with or without the daemon:",
        &[
            format!("export ROOST_PIN_DIR={pins}"),
            format!("{program} chats"),
            format!("{program} explain --service chat --key lobby"),
            format!("{program} counters"),
        ],
    );
    step(
        "Take a replica out, add it again, or change the policy: live chats stay where they are:",
        &[format!("$EDITOR {config}")],
    );
    step(
        "Kill the daemon: traffic goes on. A new one takes over:",
        &[
            format!("kill -9 {pid}"),
            format!("curl -s 'http://{vip}/whoami?chat=lobby'"),
            format!("nsenter --net=/run/netns/{node} {program} run --config {config}"),
        ],
    );
    step(
        "Watch the packets at the uplink, where Roost is attached:",
        &[format!("nsenter --net=/run/netns/{node} tcpdump -ni {UPLINK} tcp")],
    );
    Ok(text)
}
