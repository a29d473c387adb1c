//! The few system calls that no library offers safely, each behind a safe function. Of `bpf(2)` that is
//! what aya (0.14) does not have: reading a map in batches, an entry of a hash map that is removed and
//! returned, detaching a link that others hold, and what is known of one without `CAP_SYS_ADMIN`.

use std::{
    ffi::CString,
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Pod;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, netdevice};

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_LINK_DETACH: libc::c_int = 34;

/// `union bpf_attr` of `BPF_OBJ_GET`.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` of the `BPF_MAP_*_BATCH` commands.
#[repr(C)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` of the `BPF_MAP_*_ELEM` commands.
#[repr(C)]
struct MapElem {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Calls `bpf(2)`.
///
/// # Safety
///
/// `attr` must be what `command` expects, and pointers in it must be good for what it does.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads, and for some commands writes, `size_of::<T>()` bytes of `attr`; the
    // rest is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens what is pinned at `path`.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `pathname` is a string with its end, alive during the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The interface that a pinned link is attached to; 0 if that is gone.
pub(crate) fn pinned_link_interface(path: &Path) -> io::Result<u32> {
    pinned_link_number(path, "ifindex:")
}

/// The program of a pinned link, by its id. It takes no `CAP_SYS_ADMIN`, as asking for programs does.
pub(crate) fn pinned_link_program(path: &Path) -> io::Result<u32> {
    pinned_link_number(path, "prog_id:")
}

/// What the kernel tells of a pinned link in a line that begins like this.
fn pinned_link_number(path: &Path, name: &str) -> io::Result<u32> {
    let fd = open_pin(path)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let number = info.lines().find_map(|line| line.strip_prefix(name));
    number
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::other("not a link of a network interface"))
}

/// Detaches the link that is pinned at `path`, at once: removing the pin alone does so a while later.
pub(crate) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct LinkDetach {
        link_fd: u32,
    }
    let fd = open_pin(path)?;
    let mut attr = LinkDetach { link_fd: fd.as_raw_fd() as u32 };
    // SAFETY: there are no pointers in it.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Removes an entry of a hash map and returns its last value; `None` if there is none.
///
/// # Safety
///
/// `K` and `V` must have the sizes of the map's keys and values.
pub(crate) unsafe fn take_entry<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attr = MapElem {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value have the map's sizes, by the caller's promise.
    match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) } {
        // SAFETY: the kernel has filled it, and any bytes are a `Pod`.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads a whole hash map or array. Of what changes meanwhile some may be missed, but no entry of a
/// hash map comes twice.
///
/// # Safety
///
/// `K` and `V` must have the sizes of the map's keys and values.
pub(crate) unsafe fn all_entries<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let mut room = 4096;
    // The kernel's own mark of where it was: a bucket's number, or a key of an array.
    let mut mark = [0u64; 2];
    let mut is_first = true;
    loop {
        let mut keys = Vec::<K>::with_capacity(room);
        let mut values = Vec::<V>::with_capacity(room);
        let mut next = [0u64; 2];
        let mut attr = MapBatch {
            in_batch: if is_first { 0 } else { mark.as_mut_ptr() as u64 },
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: keys and values have room for `count` of the map's sizes, by the caller's promise;
        // a mark is 4 bytes.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let is_last = match result {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            // A bucket has more entries than there is room.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 24 => {
                room *= 4;
                continue;
            }
            Err(e) => return Err(e),
        };
        let count = (attr.count as usize).min(room);
        // SAFETY: the kernel has filled `count` of each, and any bytes are a `Pod`.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        all.extend(keys.into_iter().zip(values));
        if is_last {
            return Ok(all);
        }
        (mark, is_first) = (next, false);
    }
}

/// An interface's index, by name.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    Ok(netdevice::name_to_index(any_socket()?, name)?)
}

/// A socket to ask about interfaces by: which kind it is does not matter.
pub(super) fn any_socket() -> io::Result<OwnedFd> {
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}
