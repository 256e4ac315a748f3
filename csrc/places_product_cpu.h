// A product of pixels that read the same places whenever it is run: pointers are found once. No torch headers.
#pragma once

#include "pixel_products_cpu.h"

namespace fastgen {

// y[m] = Σ over runs of x @ W, of any number of pixels m, which read the same places whenever it is run
template <typename T>
class PlacesProduct {
 public:
  // lengths: words; w (numbers of all runs, N), which are rounded to T
  PlacesProduct(std::vector<int64_t> lengths, int64_t N, const std::vector<float>& w)
      : lengths_(std::move(lengths)),
        layout_(isa_, int64_t(w.size()) / N / Word<T>::kNumbers, N, false),
        packed_(size_t(layout_.size())) {
    pack_words<T>(layout_, w.data(), packed_.data());
  }

  int64_t columns() const { return ceil_div(layout_.N, isa_.lanes) * isa_.lanes; }  // from a row of y to the next

  // at(run, m): where pixel m reads
  template <typename F>
  std::vector<const T*> places(int64_t pixels, const F& at) const {
    const int64_t runs = int64_t(lengths_.size());
    std::vector<const T*> found(size_t(runs * pixels));
    for (int64_t m = 0; m < pixels; ++m) {
      const int64_t tile = m / isa_.rows * isa_.rows, rows = std::min<int64_t>(isa_.rows, pixels - tile);
      for (int64_t run = 0; run < runs; ++run) found[size_t(runs * tile + run * rows + m - tile)] = at(run, m);
    }
    return found;
  }

  // Let pixels read `by` numbers further on in a run, but for those that read `never`.
  void move(int64_t pixels, int64_t run, int64_t by, const T* never, std::vector<const T*>* places) const {
    const int64_t runs = int64_t(lengths_.size());
    for (int64_t tile = 0; tile < pixels; tile += isa_.rows) {
      const int64_t rows = std::min<int64_t>(isa_.rows, pixels - tile);
      const T** at = &(*places)[size_t(runs * tile + run * rows)];
      for (int64_t m = 0; m < rows; ++m)
        if (at[m] != never) at[m] += by;
    }
  }

  // before(m, rows): called before the first panel's product of these
  template <typename F>
  void run(int64_t pixels, const std::vector<const T*>& places, float* y, const F& before) const {
    const int64_t runs = int64_t(lengths_.size()), pitch = columns();
    for (int64_t p = 0; p < layout_.panels(); ++p)
      for (int64_t m = 0; m < pixels; m += isa_.rows) {
        const int rows = int(std::min<int64_t>(isa_.rows, pixels - m));
        if (p == 0) before(m, rows);
        isa_.tile[rows][layout_.vectors_of(p)](runs, lengths_.data(), &places[size_t(runs * m)],
                                               packed_.data() + layout_.offset(p), y + m * pitch + layout_.first(p),
                                               pitch, 0);
      }
  }
  void run(int64_t pixels, const std::vector<const T*>& places, float* y) const {
    run(pixels, places, y, [](int64_t, int) {});
  }

 private:
  const TileSet<T>& isa_ = tile_sets<T>().back();
  std::vector<int64_t> lengths_;
  GemmLayout layout_;
  std::vector<word_t<T>> packed_;
};

}  // namespace fastgen
