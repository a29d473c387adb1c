//! The netfilter rules of a Kubernetes node, as kube-proxy and CNI plugins write them.

use anyhow::{Context, Result};
use roost_programs::NFT;

use super::{Family, Lab, REPLICA_PORT, UPLINK, VIP_PORT, tools};

const TABLE: &str = "kubernetes";

/// What has matched since the rules were written, in packets.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Matched {
    /// Packets from clients that connection tracking could not make sense of, or whose connection it had not
    /// seen from the beginning, which were dropped.
    pub invalid_in: u64,
    /// The same towards clients, without `crossed`.
    pub invalid_out: u64,
    /// FINs of a replica that met a RST and the SYN of its next connection on the same ports on their way: to
    /// connection tracking they belong to neither (`nf_conntrack_proto_tcp.c`: a FIN in answer to a SYN).
    /// They are dropped, and nobody misses them.
    pub crossed: u64,
    /// Connections that pods opened, as it seemed, and that got the node's address.
    pub masqueraded: u64,
    /// Connections to the VIP that kube-proxy would have taken.
    pub proxied: u64,
    /// SYNs of connections that were forwarded.
    pub forwarded: u64,
}

impl Lab {
    /// Lets the node track connections, drop what is invalid, masquerade what pods send to the outside,
    /// and send the VIP's connections to the first replica, its own as well.
    pub fn kubernetes_rules(&self) -> Result<()> {
        let dnat = Family::BOTH.map(|family| {
            let ip = if family == Family::V4 { "ip" } else { "ip6" };
            let replica = self.replica_at(1, family, REPLICA_PORT);
            format!(
                "{ip} daddr {} tcp dport {VIP_PORT} counter name proxied dnat {ip} to {replica}\n",
                self.vip(family)
            )
        });
        let dnat = dnat.concat();
        let counters =
            ["invalid_in", "invalid_out", "crossed", "masqueraded", "proxied", "forwarded"]
                .map(|c| format!("counter {c} {{}}\n"));
        let rules = format!(
            "table inet {TABLE} {{\n{}\
             chain forward {{\ntype filter hook forward priority filter; policy accept;\n\
             ct state invalid oifname != \"{UPLINK}\" counter name invalid_in drop\n\
             ct state invalid tcp flags & (fin|syn|rst) == fin counter name crossed drop\n\
             ct state invalid counter name invalid_out drop\n\
             ct state new counter name forwarded\n}}\n\
             chain prerouting {{\ntype nat hook prerouting priority dstnat;\n{dnat}}}\n\
             chain output {{\ntype nat hook output priority -100;\n{dnat}}}\n\
             chain postrouting {{\ntype nat hook postrouting priority srcnat;\n\
             oifname \"{UPLINK}\" counter name masqueraded masquerade\n}}\n}}\n",
            counters.concat(),
        );
        tools::finish(self.node.command(NFT)?.args(["-f", "-"]), Some(&rules))?;
        // Else a segment from the middle of a connection would be a new one.
        self.node.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
    }

    /// What has matched [`Lab::kubernetes_rules`].
    pub fn matched(&self) -> Result<Matched> {
        let packets = |counter: &str| -> Result<u64> {
            let list = ["list", "counter", "inet", TABLE, counter];
            let text = tools::run_in(&self.node, NFT, &list)?;
            let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
            let packets = words.nth(1).and_then(|word| word.parse().ok());
            packets.with_context(|| format!("no counter in {text}"))
        };
        Ok(Matched {
            invalid_in: packets("invalid_in")?,
            invalid_out: packets("invalid_out")?,
            crossed: packets("crossed")?,
            masqueraded: packets("masqueraded")?,
            proxied: packets("proxied")?,
            forwarded: packets("forwarded")?,
        })
    }
}
