//! Hostile documents: the hook's result for each, and its duration.

use crate::measure;
use crate::shapes::{SHAPES, Shape};
use crate::subjects::Workshop;

/// Size of the second document of each shape, as a multiple of the first.
pub(crate) const LARGER: usize = 8;

/// A shape at two sizes.
pub(crate) struct Hostile {
    pub(crate) what: &'static str,
    /// The code of the refusal. All of these guests have a request, no vIOMMU in the XML and no wrapper. The hook
    /// therefore refuses a guest without another error with `wrapper-missing`.
    pub(crate) code: String,
    pub(crate) bytes: [usize; 2],
    /// Medians, microseconds.
    pub(crate) micros: [f64; 2],
}

/// Every shape.
pub(crate) fn all(workshop: &Workshop, rounds: usize) -> Vec<Hostile> {
    SHAPES.iter().map(|shape| one(workshop, shape, rounds)).collect()
}

fn one(workshop: &Workshop, shape: &Shape, rounds: usize) -> Hostile {
    let texts = [shape.number, shape.number * LARGER].map(shape.make);
    let bytes = [0, 1].map(|index| texts[index].len());
    let subjects = texts.map(|text| workshop.hook(&text));
    let words = subjects[1].words();
    let (_, rest) = words.split_once("error[").unwrap_or_else(|| panic!("{}: {words}", shape.what));
    let code = rest.split(']').next().unwrap_or_default().to_owned();
    let figures = measure(&subjects, rounds);
    Hostile { what: shape.what, code, bytes, micros: [0, 1].map(|index| figures[index].median) }
}
