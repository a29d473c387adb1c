//! The server in a lab, and the daemon that follows it.

use std::ffi::{OsStr, OsString};

use anyhow::Result;

use super::{ApiServer, NODE, node};
use crate::lab::{Lab, Roost};

impl ApiServer {
    /// Starts a server on the loopback interface of a lab's node, which is its only Node.
    pub fn in_lab(lab: &Lab) -> Result<Self> {
        let api = Self::start(lab.node.listen("127.0.0.1:0".parse()?)?)?;
        api.apply(node(NODE, &lab.node_addrs()));
        Ok(api)
    }

    /// Starts a daemon on a lab's node that follows the cluster, beside a file if there is one, with
    /// further arguments.
    pub fn follow(&self, lab: &Lab, file: Option<&str>, more: &[&str]) -> Result<Roost> {
        let mut arguments: Vec<OsString> = vec!["--kubernetes".into(), "--kubeconfig".into()];
        arguments.push(self.kubeconfig(lab.dir())?.into());
        arguments.extend(["--node-name", NODE].iter().chain(more).map(OsString::from));
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        Roost::start_with(lab, file, &arguments)
    }
}
