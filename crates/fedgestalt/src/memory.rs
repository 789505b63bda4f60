//! How memory comes from the system: large pages for large vectors, and mapped files. The only file of this crate with unsafe code.
//!
//! A model's update is a vector of tens of megabytes, which is made, read once and freed in each of the forms it takes on its
//! way. In pages of 4 KiB its first touch alone costs the kernel a quarter of all processor time of a round.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io;

use memmap2::Mmap;

/// The system's allocator, which asks for large pages where a block is large.
struct LargePages;

#[global_allocator]
static ALLOCATOR: LargePages = LargePages;

/// Bytes of a block that is large.
const LARGE: usize = 4 << 20;

// SAFETY: Every block comes from the system's allocator and goes back to it, with the layout that it was asked for; advice changes
// no content.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The caller's promises are those that the system's allocator asks for; so below.
        let block = unsafe { System.alloc(layout) };
        advise(block, layout.size());
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let block = unsafe { System.alloc_zeroed(layout) };
        advise(block, layout.size());
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let block = unsafe { System.realloc(block, layout, size) };
        if size > layout.size() {
            advise(block, size);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }
}

/// Asks for large pages within a block that is large. Where there are none it stays as it is.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn advise(block: *mut u8, size: usize) {
    use rustix::mm::{Advice, madvise};

    const PAGE: usize = 4096;
    if size < LARGE || block.is_null() {
        return;
    }
    let skipped = block.addr().next_multiple_of(PAGE) - block.addr();
    let length = (size - skipped) / PAGE * PAGE;
    // SAFETY: The range lies within the block, and this advice changes nothing but the size of its pages.
    let _ = unsafe { madvise(block.wrapping_add(skipped).cast(), length, Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
fn advise(_: *mut u8, _: usize) {}

/// A file's bytes. Only for files that are written anew under their name and never altered in place.
#[allow(unsafe_code)]
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: mapped bytes must not change while they are borrowed. Files of ours are never altered in place: `store::atomic`
    // renames a new file over the old name, which leaves the mapped inode as it is, and a folder is locked against a
    // second process of ours. Whoever else truncates the file makes reading it fail with a signal; they could as well
    // have ended the process.
    unsafe { Mmap::map(file) }
}
