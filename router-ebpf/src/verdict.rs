//! What can become of a packet, each with its own counter: nothing is dropped in silence.

/// What the kernel is asked to do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on as usual: it is not ours, or it was rewritten and is to be routed.
    Pass,
    /// Go no further.
    Drop,
    /// Back out of the interface that it came from (ingress only, at either hook).
    Reply,
    /// Back into the interface that it was about to leave (egress only).
    Turn,
}

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $variant:ident = $name:literal, $action:expr;)+) => {
        /// The data path's counters. The first ones are verdicts: each packet counts for exactly
        /// one of them. Those with no action of their own say more about such a packet.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Counter {
            $($(#[doc = $help])+ $variant,)+
        }

        impl Counter {
            /// All of them, in the order of the map `COUNTERS`.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name in metrics and tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it counts.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+),)+ }
            }

            /// What is done with the packet; `None` for what is not a verdict.
            #[inline(always)]
            pub const fn action(self) -> Option<Action> {
                match self { $(Self::$variant => $action,)+ }
            }
        }
    };
}

const PASS: Option<Action> = Some(Action::Pass);
const DROP: Option<Action> = Some(Action::Drop);
const REPLY: Option<Action> = Some(Action::Reply);
const TURN: Option<Action> = Some(Action::Turn);

counters! {
    /// Packets from the client side that are no business of ours, passed untouched.
    IngressPassed = "ingress_passed", PASS;
    /// SYNs answered with a SYN cookie.
    SynAnswered = "syn_answered", REPLY;
    /// Bare ACKs that end a handshake, swallowed: the connection is bound at its first data.
    AckSwallowed = "ack_swallowed", DROP;
    /// Connections bound: the first data segment, or a later request, became a SYN to the replica.
    Bound = "bound", PASS;
    /// First segments of connections, kept until the key or the replica's answer is there.
    HeadKept = "head_kept", DROP;
    /// First segments that came again before they told the key, or were a client's tenth, acknowledged: it waits for that.
    HeadAcknowledged = "head_acknowledged", REPLY;
    /// Probes of clients that wait before they send on, acknowledged: they hear that the connection lives.
    ProbeAcknowledged = "probe_acknowledged", REPLY;
    /// Segments from before a request that has bound their connection again, acknowledged: their client did not hear of it.
    BoundaryAcknowledged = "boundary_acknowledged", REPLY;
    /// Segments of later heads that belong where their connection is, made into one that asks its replica where that stands: for
    /// its answer it gets the head.
    HeadAnnounced = "head_announced", PASS;
    /// Segments translated on their way to the replica.
    ToReplica = "to_replica", PASS;
    /// Connections reset because the service has no usable replica.
    ResetNoReplica = "reset_no_replica", REPLY;
    /// Connections reset because they have no key and the service rejects those.
    ResetMissingKey = "reset_missing_key", REPLY;
    /// Segments reset because they belong to no flow and carry no valid SYN cookie.
    ResetUnknown = "reset_unknown", REPLY;
    /// Connections closed by the client before it sent anything.
    ResetUnused = "reset_unused", REPLY;
    /// Connections reset because their replica is gone.
    ResetGone = "reset_gone", REPLY;
    /// Segments of flows that Roost has ended.
    ResetExpired = "reset_expired", REPLY;
    /// Connections reset because the client has the same port open to the replica through another VIP.
    ResetConflict = "reset_conflict", REPLY;
    /// Connections reset because their replica is the client itself, whose answers would never leave it.
    ResetItself = "reset_itself", REPLY;
    /// Connections reset at their first data, or at a later head that would have to wait, because their source or service has
    /// its share: one of `over_*` says which.
    ResetShare = "reset_share", REPLY;
    /// Segments that would have been reset, or acknowledged as probes, but for the limit on RSTs.
    DropResetLimit = "drop_reset_limit", DROP;
    /// RSTs that belong to no flow.
    DropStrayReset = "drop_stray_reset", DROP;
    /// Segments to a VIP with IPv4 options or an impossible TCP header, or of more than 64 KB without a live flow.
    DropMalformed = "drop_malformed", DROP;
    /// Segments to a VIP with flags that make no sense.
    DropFlags = "drop_flags", DROP;
    /// Segments of no flow from clients whose address the service does not allow.
    DropSource = "drop_source", DROP;
    /// SYNs and first data segments with a wrong checksum.
    DropChecksum = "drop_checksum", DROP;
    /// Segments of a connection without a flow that came again, or at the wrong moment.
    DropEarly = "drop_early", DROP;
    /// Packets lost to a map, a helper or a frame that was not as it should be.
    DropFault = "drop_fault", DROP;
    /// ICMP errors translated on their way to the replica.
    IcmpToReplica = "icmp_to_replica", PASS;
    /// Segments to a VIP in frames for other MAC addresses, passed untouched.
    PassedOtherMac = "passed_other_mac", PASS;
    /// Segments to a VIP of clients on this machine whose answers would be routed by another link than they came by, but those
    /// of live flows that are only translated.
    DropOtherLink = "drop_other_link", DROP;
    /// First data segments dropped because a map that has to know of them was busy: they come again.
    DropBusy = "drop_busy", DROP;
    /// First data segments dropped because there is no memory for what has to be known of them: they come again.
    DropNoMemory = "drop_no_memory", DROP;
    /// Segments with a request that came before their connection was ready for it: they come again.
    DropRequestEarly = "drop_request_early", DROP;
    /// Segments of connections that are or were just bound again which say nothing to the new replica.
    DropOld = "drop_old", DROP;

    /// Packets on their way out that are no business of ours, passed untouched.
    EgressPassed = "egress_passed", PASS;
    /// Replicas that accepted, or said where they stand: the stashed segment was delivered.
    Delivered = "delivered", TURN;
    /// Replicas that accepted when the stash was gone: acknowledged, the client sends again.
    DeliveredEmpty = "delivered_empty", TURN;
    /// Segments of replicas that missed first bytes which Roost had acknowledged to the client: sent again.
    DeliveredAgain = "delivered_again", TURN;
    /// Segments translated on their way to the client.
    ToClient = "to_client", PASS;
    /// SYN-ACKs that a replica sent again, dropped.
    DropSynAckAgain = "drop_syn_ack_again", DROP;
    /// Connections that the replica refused: its RST went to the client.
    Refused = "refused", PASS;
    /// Connections refused because FLOWS is full: the client was reset.
    ResetFull = "reset_full", PASS;
    /// Connections refused because there is no memory for another entry of a map, full or not.
    ResetFailed = "reset_failed", PASS;
    /// Connections refused because their source or service had its share when the replica accepted: the client
    /// was reset, and one of `over_*` says which.
    ResetShareLate = "reset_share_late", PASS;
    /// Replicas reset because their chat is to live elsewhere by now: the connection is decided anew with its
    /// client's next segment.
    DecidedAgain = "decided_again", TURN;
    /// Replicas reset because the client is not there any more.
    ResetReplica = "reset_replica", TURN;
    /// RSTs of replicas that answer no SYN of ours, and what they send of more than 64 KB to a flow that has ended.
    EgressDropStray = "egress_drop_stray", DROP;
    /// Outgoing segments lost to a map, a helper or a frame that was not as it should be.
    EgressDropFault = "egress_drop_fault", DROP;
    /// ICMP errors translated on their way to the client.
    IcmpToClient = "icmp_to_client", PASS;
    /// SYN-ACKs of replicas dropped because another CPU was at the same chat or head, or a map was busy: they come again.
    EgressDropBusy = "egress_drop_busy", DROP;
    /// Connections refused because first bytes that Roost had acknowledged were gone, or more than the replica's window:
    /// the client was reset.
    ResetLost = "reset_lost", PASS;
    /// Segments of replicas whose connection is being bound to another one.
    EgressDropLeft = "egress_drop_left", DROP;

    /// Connections bound by a key in CHAT_COOKIES.
    Overridden = "overridden", None;
    /// Connections bound to a live home that the slot table would not have given.
    HomeKept = "home_kept", None;
    /// Segments delivered beside the one of `delivered`, for heads of several segments.
    DeliveredMore = "delivered_more", None;
    /// Connections without a key.
    MissingKey = "missing_key", None;
    /// Connections without a key that do not speak what the key sources read.
    MissingUnreadable = "missing_unreadable", None;
    /// Connections without a key that do, and have none.
    MissingAbsent = "missing_absent", None;
    /// Connections without a key because it is empty.
    MissingEmpty = "missing_empty", None;
    /// Connections without a key within their first 16,384 bytes, or with one of more than 4096.
    MissingTooLong = "missing_too_long", None;
    /// Upgrades on a connection that an earlier request has bound, for a chat that lives elsewhere.
    AffinityViolation = "affinity_violation", None;
    /// Later requests on a connection, for its own chat or without a key, that went where the connection is.
    StayedRequest = "stayed_request", None;
    /// Connections bound again, to the replica of a later request's chat, which has accepted.
    ReboundRequest = "rebound_request", None;
    /// Replicas that were told by a FIN that their connection goes on at another one.
    LeftReplica = "left_replica", None;
    /// SYNs sent behind the RST that ends an older connection of the replica's on the same tuple.
    SynRepeated = "syn_repeated", None;
    /// Connections whose later requests are not looked at because of a head that is not strictly HTTP/1.
    DoubtHead = "doubt_head", None;
    /// The same because of a `Content-Length` that is repeated, listed, signed, or more than 2^31 - 1.
    DoubtLength = "doubt_length", None;
    /// The same because of a `Transfer-Encoding`.
    DoubtTransferEncoding = "doubt_transfer_encoding", None;
    /// The same because of an `Expect`.
    DoubtExpect = "doubt_expect", None;
    /// The same because the connection is authenticated by NTLM or Negotiate.
    DoubtAuthorization = "doubt_authorization", None;
    /// The same because of a `CONNECT`, or HTTP/2.
    DoubtTunnel = "doubt_tunnel", None;
    /// The same because of a head of more than 16,384 bytes.
    DoubtLongHead = "doubt_long_head", None;
    /// The same because what was known of a head in several segments was forgotten, or there was no room for it.
    DoubtSplitHead = "doubt_split_head", None;
    /// The same because of an answer with a status of 1xx that is not 101.
    DoubtInterim = "doubt_interim", None;
    /// The same because an answer did not begin, in one segment, as one of HTTP/1 where it should.
    DoubtAnswer = "doubt_answer", None;
    /// The same because a request came before the end of the answer to the one before.
    DoubtPipelined = "doubt_pipelined", None;
    /// The same because of urgent data, of which servers leave a byte out.
    DoubtUrgent = "doubt_urgent", None;
    /// The same because their service leaves connections where they are by now.
    DoubtStays = "doubt_stays", None;
    /// Connections accepted without an entry in CHATS because it is full.
    ChatsFull = "chats_full", None;
    /// Connections that go on for a chat without an entry in CHATS because their source or service has its share.
    ChatsShare = "chats_share", None;
    /// Connections accepted without an entry in CHATS because there is no memory for it, though it is not full.
    ChatsNoMemory = "chats_no_memory", None;
    /// Connections refused because FLOWS is more than half full and their source holds as much of it as is left.
    OverSourceFlows = "over_source_flows", None;
    /// Connections refused because CHATS is more than half full and their source holds as much of it as is left.
    OverSourceChats = "over_source_chats", None;
    /// Connections refused because FLOWS is more than half full and their service holds four times of it what is left.
    OverServiceFlows = "over_service_flows", None;
    /// Connections refused because CHATS is more than half full and their service holds four times of it what is left.
    OverServiceChats = "over_service_chats", None;
    /// Segments of heads refused because STASH is more than half full and their source holds as much of it as is left.
    OverSourceHeads = "over_source_heads", None;
    /// Segments of heads refused because STASH is more than half full and their service holds four times of it what is left.
    OverServiceHeads = "over_service_heads", None;
    /// Live flows replaced by a new connection on the same tuple.
    Rebound = "rebound", None;
    /// Flows that ended by FINs or an RST.
    Closed = "closed", None;
    /// Flows ended because their client was silent for the service's idle time-out.
    EndedIdle = "ended_idle", None;
    /// Flows ended because one end had closed and nothing came of the client for that time-out.
    EndedHalfClosed = "ended_half_closed", None;
    /// Flows ended because both ends had closed and the last acknowledgement did not come.
    EndedClosing = "ended_closing", None;
    /// Flows ended because a request for another chat came on them, or one without a key that the service rejects.
    EndedReuse = "ended_reuse", None;
    /// Flows ended because their replica or service is gone.
    EndedGone = "ended_gone", None;
    /// Ends of flows whose remains could not be kept: their late segments are answered as those that nobody knows.
    RemainsLost = "remains_lost", None;
    /// Flows ended that the daemon cannot tell of, because FAREWELLS is full: their ends learn it with their next segments.
    Untold = "untold", None;
    /// Flows, chats and heads that a queue did not take back: heads are forgotten, the others end by themselves, or when the
    /// daemon has started anew.
    Unwatched = "unwatched", None;
    /// Heads forgotten because their key was not there 30 s after their first byte, or no replica in its time.
    EndedHead = "ended_head", None;
    /// Flows ended because first bytes that Roost had acknowledged could not be delivered.
    EndedLost = "ended_lost", None;
}

impl Counter {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether it counts for packets from the client side.
    pub const fn is_ingress(self) -> bool {
        (self as u32) < Self::EgressPassed as u32
    }
}
