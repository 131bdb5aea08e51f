//! Memory of a thread that connections borrow while they work and do not hold while they are idle.

use std::cell::{Cell, RefCell};

use super::fields::Held;
use super::names::SeenNames;
use crate::model::header::Meanings;

/// How much is read at once.
pub const READ: usize = 64 * 1024;
/// A fresh buffer for heads and small bodies.
const SMALL: usize = 2 * 1024;
/// Buffers that have grown beyond this are not kept.
const LARGEST_KEPT: usize = 128 * 1024;
const MOST_BUFFERS: usize = 64;
const MOST_AREAS: usize = 8;

/// Fields that nobody uses, in the boxes that they are lent in: handing them on moves a pointer.
type Spare = Vec<Box<Held>>;

thread_local! {
    static FIELDS: RefCell<Spare> = const { RefCell::new(Vec::new()) };
    /// The one that most reads need; others are behind it.
    static AREA: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static AREAS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static NAMES: RefCell<SeenNames> = const { RefCell::new(SeenNames::new()) };
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The names of fields that this thread has seen.
pub(super) fn with_names<T>(read: impl FnOnce(&mut SeenNames) -> T) -> T {
    NAMES.with_borrow_mut(read)
}

/// Room for one read of [`READ`] bytes. What is in it is of no meaning.
pub fn area() -> Vec<u8> {
    let area = AREA.take();
    if area.len() == READ {
        return area;
    }
    AREAS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; READ])
}

/// Gives an area back; anything else is freed.
pub fn give_back(area: Vec<u8>) {
    if area.len() != READ {
        return;
    }
    let other = AREA.replace(area);
    if other.len() == READ {
        AREAS.with_borrow_mut(|areas| {
            if areas.len() < MOST_AREAS {
                areas.push(other);
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

/// No fields, with room for some.
pub(super) fn take_fields() -> Box<Held> {
    FIELDS.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
        Box::new(Held { bytes: Vec::with_capacity(SMALL), list: Vec::with_capacity(32), meanings: Meanings::default() })
    })
}

/// Takes fields back.
pub(super) fn give_back_fields(mut fields: Box<Held>) {
    if fields.bytes.capacity() <= LARGEST_KEPT {
        fields.bytes.clear();
        fields.list.clear();
        fields.meanings = Meanings::default();
        FIELDS.with_borrow_mut(|kept| {
            if kept.len() < MOST_BUFFERS {
                kept.push(fields);
            }
        });
    }
}
