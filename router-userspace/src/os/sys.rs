//! The few system calls that no library offers safely, each behind a safe function. Of `bpf(2)` that is
//! what aya (0.14) does not have: reading a map in batches, an entry of a hash map that is removed and
//! returned, detaching a link that others hold, and what is known of one without `CAP_SYS_ADMIN`.

use std::{
    ffi::CString,
    fs, io,
    mem::MaybeUninit,
    ops::Range,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Pod;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, netdevice};

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
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

impl MapElem {
    fn new<K: ?Sized>(map: BorrowedFd<'_>, key: *const K, value: u64, flags: u64) -> Self {
        let (map_fd, key) = (map.as_raw_fd() as u32, key.cast::<u8>() as u64);
        Self { map_fd, padding: 0, key, value, flags }
    }
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
    let mut attr = MapElem::new(map, std::ptr::from_ref(key), value.as_mut_ptr() as u64, 0);
    // SAFETY: key and value have the map's sizes, by the caller's promise; found, it was filled, and any
    // bytes are a `Pod`.
    unsafe {
        found(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr)
            .map(|is_there| is_there.then(|| value.assume_init()))
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
    // SAFETY: the sizes are the map's, by the caller's promise.
    unsafe {
        each_entry(map, size_of::<K>(), size_of::<V>(), |key, value| {
            // SAFETY: these are so many bytes, and any bytes are a `Pod`.
            all.push((
                key.as_ptr().cast::<K>().read_unaligned(),
                value.as_ptr().cast::<V>().read_unaligned(),
            ));
        })
    }?;
    Ok(all)
}

/// The same, entry by entry and as bytes.
///
/// # Safety
///
/// The sizes must be those of the map's keys and values.
pub(crate) unsafe fn each_entry(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
    mut each: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    let each = |keys: &[u8], values: &[u8]| {
        let entries = keys.chunks_exact(key_size).zip(values.chunks_exact(value_size));
        entries.for_each(|(key, value)| each(key, value));
    };
    // SAFETY: the caller's promise.
    unsafe { each_batch(map, key_size, value_size, each) }
}

/// Counts the entries of a hash map, by reading them all.
///
/// # Safety
///
/// The sizes must be those of the map's keys and values.
pub(crate) unsafe fn count_entries(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
) -> io::Result<usize> {
    let mut count = 0;
    // SAFETY: the caller's promise.
    unsafe { each_batch(map, key_size, value_size, |keys, _| count += keys.len() / key_size) }?;
    Ok(count)
}

/// Reads a whole hash map or array, many entries at a time: all their keys, and all their values.
///
/// # Safety
///
/// The sizes must be those of the map's keys and values.
unsafe fn each_batch(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
    mut each: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    let mut room = 4096;
    let mut keys = vec![0u8; room * key_size];
    let mut values = vec![0u8; room * value_size];
    // The kernel's own mark of where it was: a bucket's number, or a key.
    let mut mark = vec![0u8; key_size.max(16)];
    let mut next = mark.clone();
    let mut is_first = true;
    loop {
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
        // SAFETY: keys and values have room for `count` of the map's sizes, by the caller's promise; a
        // mark is a bucket's number of 4 bytes, or a key.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let is_last = match result {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            // A bucket has more entries than there is room.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 24 => {
                room *= 4;
                keys.resize(room * key_size, 0);
                values.resize(room * value_size, 0);
                continue;
            }
            Err(e) => return Err(e),
        };
        let count = (attr.count as usize).min(room);
        each(&keys[..count * key_size], &values[..count * value_size]);
        if is_last {
            return Ok(());
        }
        std::mem::swap(&mut mark, &mut next);
        is_first = false;
    }
}

/// Reads these values of an array; what lies behind its end is left out.
///
/// # Safety
///
/// `V` must have the size of the array's values.
pub(crate) unsafe fn array_values<V: Pod>(
    map: BorrowedFd<'_>,
    range: Range<u32>,
) -> io::Result<Vec<V>> {
    let mut values = Vec::<V>::with_capacity(range.len());
    let mut keys = vec![0u32; range.len()];
    let mut next = 0u32;
    while values.len() < range.len() {
        let read = values.len();
        // The kernel goes on behind this index; without one it begins at the first.
        let mut before = (range.start + read as u32).wrapping_sub(1);
        let mut attr = MapBatch {
            in_batch: if before == u32::MAX { 0 } else { &raw mut before as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.spare_capacity_mut().as_mut_ptr() as u64,
            count: (range.len() - read) as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: there is room for `count` keys and values of the map's sizes, by the caller's promise; both
        // marks are an index.
        let is_last = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => attr.count == 0,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) => return Err(e),
        };
        // SAFETY: the kernel has written so many more, which there is room for, and any bytes are a `Pod`.
        unsafe { values.set_len((read + attr.count as usize).min(range.len())) };
        if is_last {
            break;
        }
    }
    Ok(values)
}

/// Reads an entry's value, as bytes; `false`: there is none.
///
/// # Safety
///
/// `key` and `value` must have the sizes of the map's keys and values.
pub(crate) unsafe fn read_entry(
    map: BorrowedFd<'_>,
    key: &[u8],
    value: &mut [u8],
) -> io::Result<bool> {
    let mut attr = MapElem::new(map, key, value.as_mut_ptr() as u64, 0);
    // SAFETY: key and value have the map's sizes, by the caller's promise.
    unsafe { found(BPF_MAP_LOOKUP_ELEM, &mut attr) }
}

/// Writes an entry, as bytes. `flags`: 0, `BPF_NOEXIST` or `BPF_EXIST`.
///
/// # Safety
///
/// `key` and `value` must have the sizes of the map's keys and values.
pub(crate) unsafe fn write_entry(
    map: BorrowedFd<'_>,
    key: &[u8],
    value: &[u8],
    flags: u64,
) -> io::Result<()> {
    let mut attr = MapElem::new(map, key, value.as_ptr() as u64, flags);
    // SAFETY: key and value have the map's sizes, by the caller's promise; the kernel only reads them.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Removes an entry of a map that is not an array; `false`: there was none.
///
/// # Safety
///
/// `key` must have the size of the map's keys.
pub(crate) unsafe fn remove_entry(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = MapElem::new(map, key, 0, 0);
    // SAFETY: the key has the map's size, by the caller's promise.
    unsafe { found(BPF_MAP_DELETE_ELEM, &mut attr) }
}

/// Calls `bpf(2)`; `false`: there is no such entry.
///
/// # Safety
///
/// As for [`bpf`].
unsafe fn found(command: libc::c_int, attr: &mut MapElem) -> io::Result<bool> {
    // SAFETY: the caller's promise.
    match unsafe { bpf(command, attr) } {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// An interface's index, by name.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    Ok(netdevice::name_to_index(any_socket()?, name)?)
}

/// The root of all cgroups (v2) that this process may see, without a mount point for it.
pub(crate) fn cgroup_root() -> io::Result<OwnedFd> {
    use rustix::mount;
    let fs = mount::fsopen("cgroup2", mount::FsOpenFlags::FSOPEN_CLOEXEC)?;
    mount::fsconfig_create(&fs)?;
    let flags = mount::FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(mount::fsmount(&fs, flags, mount::MountAttrFlags::empty())?)
}

/// Whether a directory is a cgroup (v2).
pub(crate) fn is_cgroup(path: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: libc::c_long = 0x6367_7270;
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}

/// The network namespace of this process, by its cookie: no other one ever has that.
pub(crate) fn network_namespace() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = any_socket()?;
    let (mut cookie, mut len) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: there is room for as many bytes as `len` says, and any are a number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// A socket to ask about interfaces by: which kind it is does not matter.
pub(super) fn any_socket() -> io::Result<OwnedFd> {
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}
