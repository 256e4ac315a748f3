// image_lstm on the CPU: a thread walks all steps of its images; the cells of a step are rows of one matrix product.
#include "image_lstm_cpu.h"

#include <array>

#include "tensor_utils.h"

namespace fastgen {
namespace {

constexpr int64_t kImages = 4;  // walked together, so that the short diagonals of several fill a tile

// ---- the walk

struct Cell {
  int64_t n, r, c, at;  // at: among all cells
};

struct Shape {
  int64_t kind, N, H, W, h;

  int64_t at(int64_t n, int64_t r, int64_t c) const { return (n * H + r) * W + c; }

  // Whether these cells lie one behind the other in one row of an image.
  static bool in_line(int rows, const Cell* cells) {
    return cells[rows - 1].at - cells[0].at == rows - 1 && cells[rows - 1].c - cells[0].c == rows - 1;
  }

  // What lies beside each cell: `width` numbers in `of`; what stands above and below all columns; or else on the sides.
  template <typename T>
  void beside(int rows, const Cell* cells, int row, int column, const T* of, int64_t width, const T* above,
              const T* side, const T** to) const {
    const int64_t step = row * W + column;
    if (!in_line(rows, cells)) {
      for (int m = 0; m < rows; ++m) {
        const int64_t r = cells[m].r + row, c = cells[m].c + column;
        to[m] = c < 0 || c >= W ? side : r < 0 || r >= H ? above : of + (cells[m].at + step) * width;
      }
      return;
    }
    const int64_t r = cells[0].r + row, first = cells[0].c + column;
    const bool inside = r >= 0 && r < H;
    const T* at = inside ? of + (cells[0].at + step) * width : above;
    for (int m = 0; m < rows; ++m, at += inside ? width : 0) to[m] = first + m < 0 || first + m >= W ? side : at;
  }

  // Numbers that the cells of the next step read or write, `width` each.
  template <typename T>
  void ahead(int rows, const Cell* cells, int64_t step, const T* of, int64_t width) const {
    if (in_line(rows, cells)) {
      const int64_t next = cells[0].at + step;
      if (next >= 0 && next + rows <= this->cells()) prefetch(of + next * width, rows * width);
      return;
    }
    for (int m = 0; m < rows; ++m) {
      const int64_t next = cells[m].at + step;
      if (next >= 0 && next < this->cells()) prefetch(of + next * width, width);
    }
  }

  int64_t cells() const { return N * H * W; }
  int64_t step() const { return kind == kRowScan ? W : kind == kDiagonalScan ? 1 : -1; }  // to a cell of the next one
};

// Calls body(rows, cells) for all cells of images [first, last), up to `most` that do not read each other at a time.
template <typename F>
void walk(const Shape& shape, int64_t first, int64_t last, int most, bool backward, const F& body) {
  const ImageLstmSteps steps{shape.kind, shape.H, shape.W};
  std::array<Cell, kRows> cells;
  for (int64_t s = 0; s < steps.count(); ++s) {
    const int64_t step = backward ? steps.count() - 1 - s : s, per_image = steps.cells(step);
    int rows = 0;
    for (int64_t n = first; n < last; ++n)
      for (int64_t index = 0; index < per_image; ++index) {
        Cell& cell = cells[size_t(rows++)];
        cell.n = n;
        steps.cell(step, index, &cell.r, &cell.c);
        cell.at = shape.at(n, cell.r, cell.c);
        if (rows == most || (n == last - 1 && index == per_image - 1)) {
          body(rows, cells.data());
          rows = 0;
        }
      }
  }
}

template <typename T>
void forward(Shape shape, const T* gates, const T* weight, const T* hidden, const T* cell, T* h, T* c, T* activations) {
  const ImageLstmScan scan = image_lstm_scan(shape.kind);
  const int64_t width = shape.h, O = 4 * width, taps = scan.taps, ahead = shape.step();
  std::vector<T> w(size_t(taps * width * O));
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t k = 0; k < width; ++k)
      for (int64_t o = 0; o < O; ++o) w[size_t((t * width + k) * O + o)] = weight[(o * width + k) * taps + t];
  const RunsProduct<T> product(taps, width, O, w);
  const std::vector<T> zeros(size_t(width), T(0));
  torch::stable::parallel_for(0, ceil_div(shape.N, kImages), 1, [&](int64_t begin, int64_t end) {
    std::vector<T> sums(size_t(kRows * product.columns()));
    std::vector<const T*> x(size_t(kRows * taps));
    ForwardCells<T> at;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kImages, last = std::min(first + kImages, shape.N);
      walk(shape, first, last, product.rows(), false, [&](int rows, const Cell* cells) {
        for (int m = 0; m < rows; ++m) {
          const Cell& here = cells[m];
          at.gates[m] = gates + here.at * O;
          at.activations[m] = activations + here.at * O;
          at.c[m] = c + here.at * width;
          at.state[m] = h + here.at * width;
        }
        shape.beside<T>(rows, cells, scan.row[1], scan.column[1], c, width, cell, cell, at.previous);
        for (int t = 0; t < taps; ++t)
          shape.beside<T>(rows, cells, scan.row[t], scan.column[t], h, width, hidden,
                          scan.around ? hidden : zeros.data(), &x[size_t(t * rows)]);
        shape.ahead(rows, cells, ahead, gates, O);
        shape.ahead(rows, cells, ahead, activations, O);
        shape.ahead(rows, cells, ahead, c, width);
        shape.ahead(rows, cells, ahead, h, width);
        product.multiply(rows, x.data(), sums.data());
        cells_run(rows, width, sums.data(), product.columns(), &at);
      });
    }
  });
}

template <typename T>
void backward(Shape shape, const T* grad_h, const T* grad_c, const T* grad_activations, const T* c,
              const T* activations, const T* weight, const T* cell, T* grads, T* grad_cell) {
  const ImageLstmScan scan = image_lstm_scan(shape.kind);
  const int64_t width = shape.h, O = 4 * width, taps = scan.taps, ahead = shape.step();
  const int64_t chains = shape.kind == kRowScan ? shape.W : shape.H;  // along each, c is read from one to the next
  std::vector<T> w(size_t(taps * O * width));
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t o = 0; o < O; ++o)
      for (int64_t k = 0; k < width; ++k) w[size_t((t * O + o) * width + k)] = weight[(o * width + k) * taps + t];
  const RunsProduct<T> product(taps, O, width, w);
  const std::vector<T> zeros(size_t(O), T(0));
  std::fill_n(grad_cell, shape.N * width, T(0));
  torch::stable::parallel_for(0, ceil_div(shape.N, kImages), 1, [&](int64_t begin, int64_t end) {
    std::vector<T> sums(size_t(kRows * product.columns())), tanh_c(size_t(kRows * width)),
        carried(size_t(kImages * chains * width));
    std::vector<const T*> x(size_t(kRows * taps));
    BackwardCells<T> at;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kImages, last = std::min(first + kImages, shape.N);
      std::fill(carried.begin(), carried.end(), T(0));
      walk(shape, first, last, product.rows(), true, [&](int rows, const Cell* cells) {
        for (int m = 0; m < rows; ++m) {
          const Cell& here = cells[m];
          const int64_t chain = (here.n - first) * chains + (shape.kind == kRowScan ? here.c : here.r);
          at.activations[m] = activations + here.at * O;
          at.grad_h[m] = grad_h + here.at * width;
          at.grad_c[m] = grad_c ? grad_c + here.at * width : zeros.data();
          at.grad_activations[m] = grad_activations ? grad_activations + here.at * O : zeros.data();
          at.c[m] = c + here.at * width;
          at.carried[m] = carried.data() + chain * width;
          at.grads[m] = grads + here.at * O;
        }
        shape.beside<T>(rows, cells, scan.row[1], scan.column[1], c, width, cell, cell, at.previous);
        for (int t = 0; t < taps; ++t)  // who has read this state
          shape.beside<T>(rows, cells, -scan.row[t], -scan.column[t], grads, O, zeros.data(), zeros.data(),
                          &x[size_t(t * rows)]);
        shape.ahead(rows, cells, -ahead, activations, O);
        shape.ahead(rows, cells, -ahead, grads, O);
        shape.ahead(rows, cells, -ahead, c, width);
        shape.ahead(rows, cells, -ahead, grad_h, width);
        product.multiply(rows, x.data(), sums.data());
        tanh_of_states(rows, width, &at, tanh_c.data());
        cells_backward_run(rows, width, sums.data(), product.columns(), tanh_c.data(), &at);
        for (int m = 0; m < rows; ++m)
          if (at.previous[m] == cell) add_scaled(width, T(1), at.carried[m], grad_cell + cells[m].n * width);
      });
    }
  });
}

template <typename T>
void backward_weight(Shape shape, const T* h, const T* hidden, const T* grads, T* grad_weight) {
  const ImageLstmScan scan = image_lstm_scan(shape.kind);
  const int64_t width = shape.h, O = 4 * width, K = scan.taps * width, cells = shape.H * shape.W;
  const int64_t chunks = ceil_div(shape.N, kImages);
  Frame<T> whole(shape.H, shape.W, width, 1, 1, 1);
  for (int64_t r = -1; r < shape.H; ++r) {
    for (int64_t c : {int64_t(-1), shape.W})
      if (scan.around) std::copy_n(hidden, width, whole.at(r, c));
    for (int64_t c = 0; r < 0 && c < shape.W; ++c) std::copy_n(hidden, width, whole.at(r, c));
  }
  std::vector<int64_t> read;  // by a row of the weight
  for (int64_t t = 0; t < scan.taps; ++t)
    for (int64_t k = 0; k < width; ++k) read.push_back(scan.row[t] * whole.row + scan.column[t] * width + k);
  const int64_t columns = OuterProducts<T>(0, O).columns();
  std::vector<T> parts(size_t(chunks * K * columns), T(0));  // added in their order, whoever has computed them
  torch::stable::parallel_for(0, cells ? chunks : 0, 1, [&](int64_t begin, int64_t end) {
    Frame<T> frame = whole;
    OuterProducts<T> product(shape.W, O);
    for (int64_t chunk = begin; chunk < end; ++chunk)
      for (int64_t n = chunk * kImages; n < std::min((chunk + 1) * kImages, shape.N); ++n) {
        frame.fill(h + n * cells * width);
        for (int64_t r = 0; r < shape.H; r += product.rows())
          product.add(frame.plane().below(r), std::min(product.rows(), shape.H - r), read,
                      grads + shape.at(n, r, 0) * O, &parts[size_t(chunk * K * columns)]);
      }
  });
  for (int64_t k = 0; k < width; ++k)
    for (int64_t t = 0; t < scan.taps; ++t)
      for (int64_t o = 0; o < O; ++o) {
        T sum = T(0);
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
          sum += parts[size_t((chunk * K + t * width + k) * columns + o)];
        grad_weight[(o * width + k) * scan.taps + t] = sum;
      }
}

// ---- from tensors to pointers

int64_t kind_of(const std::string& scan) {
  const char* names[] = {"row", "diagonal", "mirrored"};
  for (int64_t kind = 0; kind < 3; ++kind)
    if (scan == names[kind]) return kind;
  STD_TORCH_CHECK(false, "scan: expected row, diagonal or mirrored");
}

Shape shape_of_gates(const Tensor& gates, const Tensor& weight, const Tensor& cell, const std::string& scan) {
  STD_TORCH_CHECK(gates.scalar_type() == ScalarType::Float || gates.scalar_type() == ScalarType::Double,
                  "gates: expected float32 or float64");
  STD_TORCH_CHECK(gates.dim() == 4 && gates.size(3) > 0 && gates.size(3) % 4 == 0,
                  "gates: expected shape (N, H, W, 4h)");
  const Shape shape{kind_of(scan), gates.size(0), gates.size(1), gates.size(2), gates.size(3) / 4};
  const std::vector<int64_t> state = {shape.h}, weights = {4 * shape.h, shape.h, image_lstm_scan(shape.kind).taps};
  check_tensor(weight, "weight", weights, gates.scalar_type(), gates);
  check_tensor(cell, "cell", state, gates.scalar_type(), gates);
  return shape;
}

#define FG_DISPATCH_WIDE(tensor, ...)                \
  if ((tensor).scalar_type() == ScalarType::Float) { \
    using scalar_t = float;                          \
    __VA_ARGS__;                                     \
  } else {                                           \
    using scalar_t = double;                         \
    __VA_ARGS__;                                     \
  }

std::tuple<Tensor, Tensor, Tensor> image_lstm_cpu(const Tensor& gates_any, const Tensor& weight_any,
                                                  const Tensor& hidden_any, const Tensor& cell_any, Text scan) {
  const Shape shape = shape_of_gates(gates_any, weight_any, cell_any, scan);
  check_same(hidden_any, "hidden", cell_any);
  const Tensor gates = as_contiguous(gates_any), weight = as_contiguous(weight_any), hidden = as_contiguous(hidden_any),
               cell = as_contiguous(cell_any);
  const std::vector<int64_t> sizes = {shape.N, shape.H, shape.W, shape.h};
  Tensor h = empty(gates, sizes), c = empty(gates, sizes), activations = empty(gates, shape_of(gates));
  FG_DISPATCH_WIDE(gates, forward<scalar_t>(shape, data<scalar_t>(gates), data<scalar_t>(weight),
                                            data<scalar_t>(hidden), data<scalar_t>(cell), mutable_data<scalar_t>(h),
                                            mutable_data<scalar_t>(c), mutable_data<scalar_t>(activations)));
  return {h, c, activations};
}

std::tuple<Tensor, Tensor, Tensor> image_lstm_backward_cpu(const Tensor& grad_h_any, std::optional<Tensor> grad_c_any,
                                                           std::optional<Tensor> grad_activations_any,
                                                           const Tensor& h_any, const Tensor& c_any,
                                                           const Tensor& activations_any, const Tensor& weight_any,
                                                           const Tensor& hidden_any, const Tensor& cell_any,
                                                           Text scan) {
  const Shape shape = shape_of_gates(activations_any, weight_any, cell_any, scan);
  const std::vector<int64_t> sizes = {shape.N, shape.H, shape.W, shape.h};
  check_tensor(c_any, "c", sizes, cell_any.scalar_type(), cell_any);
  check_same(h_any, "h", c_any);
  check_same(grad_h_any, "grad_h", c_any);
  check_same(hidden_any, "hidden", cell_any);
  if (grad_c_any) check_same(*grad_c_any, "grad_c", c_any);
  if (grad_activations_any) check_same(*grad_activations_any, "grad_activations", activations_any);
  const Tensor grad_h = as_contiguous(grad_h_any), h = as_contiguous(h_any), c = as_contiguous(c_any),
               activations = as_contiguous(activations_any), weight = as_contiguous(weight_any),
               hidden = as_contiguous(hidden_any), cell = as_contiguous(cell_any);
  const Tensor grad_c = grad_c_any ? as_contiguous(*grad_c_any) : c,
               grad_activations = grad_activations_any ? as_contiguous(*grad_activations_any) : c;
  Tensor grads = empty(activations, shape_of(activations)), grad_weight = empty(weight, shape_of(weight)),
         grad_cell = empty(c, {shape.N, shape.h});
  FG_DISPATCH_WIDE(
      c, backward<scalar_t>(shape, data<scalar_t>(grad_h), grad_c_any ? data<scalar_t>(grad_c) : nullptr,
                            grad_activations_any ? data<scalar_t>(grad_activations) : nullptr, data<scalar_t>(c),
                            data<scalar_t>(activations), data<scalar_t>(weight), data<scalar_t>(cell),
                            mutable_data<scalar_t>(grads), mutable_data<scalar_t>(grad_cell));
      backward_weight<scalar_t>(shape, data<scalar_t>(h), data<scalar_t>(hidden), data<scalar_t>(grads),
                                mutable_data<scalar_t>(grad_weight)));
  return {grads, grad_weight, grad_cell};
}

}  // namespace

FG_KERNELS(CPU, m) {
  m.impl("image_lstm", TORCH_BOX(&image_lstm_cpu));
  m.impl("image_lstm_backward", TORCH_BOX(&image_lstm_backward_cpu));
}

}  // namespace fastgen
