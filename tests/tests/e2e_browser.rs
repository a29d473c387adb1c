//! Real browsers on the chat's page, through the VIP.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use roost_tests::browser::{Kind, LIMIT, Launch, Tab, talk};
use roost_tests::lab::{Config, Family, Lab, Site, heavy};

#[test]
fn three_tabs_of_chromium_meet() -> Result<()> {
    let _heavy = heavy()?;
    let site = Site::home("chromium")?;
    let browser = Launch::new(Kind::Chromium).start(&site.lab)?;
    for family in Family::BOTH {
        let vip = site.vip(family);
        browser.check_chats(&format!("{family}"), |chat| format!("http://{vip}/?chat={chat}"))?;
    }

    // To look at.
    let url = format!("http://{}/?chat=lobby", site.vip(Family::V4));
    let tabs = browser.three_tabs(&url)?;
    for (n, text) in ["Can everybody see this?", "Yes, in the second tab.", "And in the third."]
        .iter()
        .enumerate()
    {
        talk(&tabs, n, text)?;
    }
    for (n, tab) in tabs.iter().enumerate() {
        tab.screenshot(&format!("chat-{}", n + 1))?;
    }
    let dark = Launch::new(Kind::Chromium).dark().start(&site.lab)?;
    let phone = dark.open(&url)?;
    phone.resize(390, 760)?;
    phone.wait_for(LIMIT, "document.documentElement.dataset.state == 'connected'")?;
    phone.type_line("#text", "And on a phone, at night.")?;
    phone.wait_for(LIMIT, "document.querySelectorAll('#log .text').length == 1")?;
    phone.screenshot("chat-phone")?;
    Ok(())
}

#[test]
fn three_tabs_of_firefox_meet() -> Result<()> {
    let _heavy = heavy()?;
    let site = Site::home("firefox")?;
    let browser = Launch::new(Kind::Firefox).start(&site.lab)?;
    let vip = site.vip(Family::V4);
    browser.check_chats("fox", |chat| format!("http://{vip}/?chat={chat}"))?;
    let url = format!("http://{}/?chat=lobby", site.vip(Family::V6));
    let tabs = browser.three_tabs(&url)?;
    talk(&tabs, 0, "Can everybody see this?")?;
    tabs[1].screenshot("chat-firefox")?;
    Ok(())
}

#[test]
fn a_split_chat_is_seen_and_tabs_come_back_by_themselves() -> Result<()> {
    let _heavy = heavy()?;
    let site = Site::start(Lab::builder("split"), |lab| Config::new(lab).policy("spread"))?;
    let browser = Launch::new(Kind::Chromium).start(&site.lab)?;
    let url = format!("http://{}/?chat=lobby", site.vip(Family::V4));
    let one = browser.open(&url)?;
    // Alone, and still seen: four connections that all land where this one did are one in 81, so
    // there may be a second look.
    let split = "!document.querySelector('#split').hidden";
    one.wait_for(3 * LIMIT, split)?;
    ensure!(one.text("#why")?.contains("New connections to it arrive at replica-"));

    let mut tabs = vec![one];
    let on_all = |tabs: &[Tab<'_>]| -> Result<bool> {
        let on = tabs.iter().map(Tab::replica).collect::<Result<BTreeSet<_>>>()?;
        Ok(on.len() == 3)
    };
    while !on_all(&tabs)? {
        ensure!(tabs.len() < 64, "{} tabs, and not on three replicas", tabs.len());
        tabs.push(browser.chat(&url)?);
    }
    for tab in &tabs {
        tab.wait_for(LIMIT, split)?;
    }
    let strangers = "Other tabs of it in this browser are on replica-";
    let why = "document.querySelector('#why').innerText";
    tabs[0].wait_for(LIMIT, &format!("{why}.includes('{strangers}')"))?;
    tabs[0].type_line("#text", "Can everybody see this?")?;
    tabs[0].wait_for(LIMIT, "document.querySelectorAll('#log .own').length == 1")?;
    tabs[0].screenshot("chat-split")?;
    let stranger = tabs.iter().find(|tab| tab.replica().ok() != tabs[0].replica().ok());
    let heard = stranger.context("all on one")?.texts("#log .text")?;
    ensure!(heard.is_empty(), "heard on another replica: {heard:?}");

    // Two of three replicas go: their tabs are reset, come back, and the chat is whole.
    site.roost
        .write_config(&Config::new(&site.lab).policy("spread").only(&site.lab, &[2]).to_string())?;
    for tab in &tabs {
        tab.wait_for(3 * LIMIT, "document.documentElement.dataset.replica == 'replica-2'")?;
        tab.wait_for(3 * LIMIT, "document.querySelector('#split').hidden")?;
    }
    let last = tabs.len() - 1;
    tabs[last].type_line("#text", "all here again")?;
    for tab in &tabs {
        tab.wait_for(LIMIT, "document.querySelector('#log').innerText.includes('all here again')")?;
    }
    Ok(())
}
