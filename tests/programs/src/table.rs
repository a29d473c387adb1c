//! The table.

use crate::{Need, Program};

macro_rules! table {
    ($($need:ident { $($constant:ident: $name:literal of $package:literal,)* })*) => {
        $($(
            #[doc = concat!("`", $name, "`, of ", $package, ".")]
            pub const $constant: Program =
                Program { name: $name, package: $package, need: Need::$need };
        )*)*

        /// All of them.
        pub const ALL: &[Program] = &[$($($constant),*),*];
    };
}

table! {
    Base {
        APT_CACHE: "apt-cache" of "apt",
        APT_CONFIG: "apt-config" of "apt",
        APT_GET: "apt-get" of "apt",
        CAT: "cat" of "coreutils",
        CHROOT: "chroot" of "coreutils",
        CP: "cp" of "coreutils",
        DATE: "date" of "coreutils",
        DIRNAME: "dirname" of "coreutils",
        DPKG_DEB: "dpkg-deb" of "dpkg",
        ENV: "env" of "coreutils",
        FIND: "find" of "findutils",
        FLOCK: "flock" of "util-linux",
        HEAD: "head" of "coreutils",
        LDD: "ldd" of "libc-bin",
        MKDIR: "mkdir" of "coreutils",
        MOUNT: "mount" of "mount",
        NSENTER: "nsenter" of "util-linux",
        RM: "rm" of "coreutils",
        SETPRIV: "setpriv" of "util-linux",
        SH: "sh" of "dash",
        SHA256SUM: "sha256sum" of "coreutils",
        SLEEP: "sleep" of "coreutils",
        STRIP: "strip" of "binutils",
        SUDO: "sudo" of "sudo",
        TAR: "tar" of "tar",
        TIMEOUT: "timeout" of "coreutils",
        TOUCH: "touch" of "coreutils",
        UNSHARE: "unshare" of "util-linux",
    }
    Rust {
        CARGO: "cargo" of "rustup",
        RUSTC: "rustc" of "rustup",
        RUSTUP: "rustup" of "rustup",
    }
    Network {
        ETHTOOL: "ethtool" of "ethtool",
        IP: "ip" of "iproute2",
        NFT: "nft" of "nftables",
        TC: "tc" of "iproute2",
    }
    Tests {
        CERTUTIL: "certutil" of "libnss3-tools",
        CHROMEDRIVER: "chromedriver" of "chromium-driver",
        CHROMIUM: "chromium" of "chromium",
        CURL: "curl" of "curl",
        FIREFOX: "firefox-esr" of "firefox-esr",
        GO: "go" of "golang-go",
        JAVA: "java" of "default-jdk-headless",
        JAVAC: "javac" of "default-jdk-headless",
        NODE: "node" of "nodejs",
        NPM: "npm" of "npm",
        PYTHON: "python3" of "python3",
        TCPDUMP: "tcpdump" of "tcpdump",
    }
    Image {
        UMOCI: "umoci" of "umoci",
    }
    Kubectl {
        KUBECTL: "kubectl" of "kubernetes-client",
    }
    Fuzz {
        CXX: "c++" of "g++",
    }
    Kernels {
        QEMU: "qemu-system-x86_64" of "qemu-system-x86",
    }
    Fresh {
        GIT: "git" of "git",
        MMDEBSTRAP: "mmdebstrap" of "mmdebstrap",
    }
}

/// Those that run others by name: they see this table and nothing else.
pub(crate) const RUNNERS: &[Program] = &[CHROOT, FLOCK, IP, NSENTER, SETPRIV, SH, TIMEOUT, UNSHARE];
