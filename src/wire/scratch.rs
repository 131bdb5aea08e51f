//! Memory of a thread that connections borrow while they work and do not hold while they are idle.

use std::cell::RefCell;

use super::fields::Field;

/// How much is read at once.
pub const READ: usize = 64 * 1024;
/// A fresh buffer for heads and small bodies.
const SMALL: usize = 2 * 1024;
/// Buffers that have grown beyond this are not kept.
const LARGEST_KEPT: usize = 128 * 1024;
const MOST_BUFFERS: usize = 64;
const MOST_AREAS: usize = 8;

thread_local! {
    static LISTS: RefCell<Vec<Vec<Field>>> = const { RefCell::new(Vec::new()) };
    static AREAS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Room for one read of [`READ`] bytes. What is in it is of no meaning.
pub fn area() -> Vec<u8> {
    AREAS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; READ])
}

/// Gives an area back; anything else is freed.
pub fn give_back(area: Vec<u8>) {
    if area.len() == READ {
        AREAS.with_borrow_mut(|areas| {
            if areas.len() < MOST_AREAS {
                areas.push(area);
            }
        });
    }
}

/// An empty buffer with some room.
pub fn buffer() -> Vec<u8> {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(SMALL))
}

/// Takes a buffer back.
pub fn recycle(mut buffer: Vec<u8>) {
    if (SMALL..=LARGEST_KEPT).contains(&buffer.capacity()) {
        buffer.clear();
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < MOST_BUFFERS {
                buffers.push(buffer);
            }
        });
    }
}

/// An empty list of fields.
pub(super) fn take_list() -> Vec<Field> {
    LISTS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(32))
}

/// Takes a list back.
pub(super) fn give_back_list(mut list: Vec<Field>) {
    if list.capacity() > 0 {
        list.clear();
        LISTS.with_borrow_mut(|lists| {
            if lists.len() < MOST_BUFFERS {
                lists.push(list);
            }
        });
    }
}
