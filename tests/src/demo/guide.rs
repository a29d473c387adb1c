//! What explains the result, and what to try next.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;

use super::round::Round;
use super::show;
use crate::lab::{Family, Lab, Roost, Site, UPLINK, binary};

/// What explains where chats are, as the command line shows it. `explain` is asked of the first chat.
pub(super) const MAPS: &[&str] =
    &["replicas", "chats", "explain", "maps dump SERVICES", "maps dump CHATS"];
/// And from inside: where Roost is attached.
pub(super) const LINKS: &[&str] = &["status", "replicas", "explain"];

/// What these commands say.
pub(super) fn explanation(roost: &Roost, round: &Round, commands: &[&str]) -> Result<String> {
    let mut text = show::heading("why", "the maps of the data path, read from the kernel");
    let chat = round.chats.first().map_or("", |chat| chat.name.as_str());
    for command in commands {
        let mut args: Vec<&str> = command.split(' ').collect();
        if *command == "explain" {
            args.extend(["--service", "chat", "--key", chat]);
        }
        text += &show::command(&format!("roost {}", args.join(" ")), &roost.text(&args)?);
    }
    Ok(text)
}

/// The same from inside, where a proxy at `front` ends TLS with a certificate of this authority.
pub(super) fn next_steps_inside(site: &Site, front: IpAddr, authority: &Path) -> String {
    let (vip, program) = (site.lab.vip(Family::V4), site.roost.binary().display());
    let (pins, authority) = (site.roost.pin_dir().display(), authority.display());
    let client = "curl -s --max-time 10";
    let through = format!("--cacert {authority} --resolve chat.test:443:{front}");
    format!(
        "{}  Through nginx, and past it: the same chat, the same replica:\n    \
         {client} {through} 'https://chat.test/whoami?chat=lobby'\n    \
         {client} 'http://{vip}/whoami?chat=lobby'\n\n  \
         Look into the kernel's maps, with or without the daemon:\n    \
         export ROOST_PIN_DIR={pins}\n    {program} status\n    {program} chats\n    {program} counters\n",
        show::heading("everything is left running", "Ctrl-C ends it and cleans up"),
    )
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
