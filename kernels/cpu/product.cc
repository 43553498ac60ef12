#include "kernels/cpu/product.h"

#include <algorithm>

#include "kernels/cpu/backend_impl.h"

namespace tandem::kernels {
namespace {

// Work that is not worth waking the team for, about 2 us of one thread: inputs to pack, and weight
// lines times (rows / 4 + 1) to multiply.
constexpr int64_t kAloneInputs = 32768;
constexpr int64_t kAloneLines = 1024;
// Tasks per thread, so that threads end together.
constexpr int kTasksPerThread = 4;
// Row blocks of a task when rows are cut for that.
constexpr int kLeastBlocks = 4;
// Inputs of one pack task.
constexpr int kPackInputs = 1024;

template <typename T>
constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

int UnitsOf(const LinearKernel& kernel, const WeightView& w) {
  return CeilDiv(w.in, kernel.unit_inputs);
}
int TilesOf(const WeightView& w) { return CeilDiv(w.out, kTileOutputs); }

int ColumnTasks(const Product& product) { return CeilDiv(TilesOf(product.w), product.task_tiles); }

// Index of the product that holds task `task`, where first(product) is its first task.
template <typename First>
size_t ProductOf(std::span<const Product> products, int64_t task, First first) {
  const auto after = std::upper_bound(
      products.begin(), products.end(), task,
      [&](int64_t value, const Product& product) { return value < first(product); });
  return static_cast<size_t>(after - products.begin()) - 1;
}

// Whole lines, so that the panels of every product start on one.
size_t PanelBytes(const LinearKernel& kernel, const Product& product) {
  const size_t bytes = size_t{1} * product.rows * UnitsOf(kernel, product.w) * kernel.panel_bytes;
  return CeilDiv(bytes, size_t{64}) * 64;
}

// Cuts rows into blocks and packs them into CpuBackend::panels.
void PackPanels(CpuBackend& backend, const LinearKernel& kernel, std::span<Product> products) {
  size_t bytes = 0;
  int64_t tasks = 0, inputs = 0;
  for (Product& product : products) {
    product.blocks = CeilDiv(product.rows, kernel.max_block_rows);
    product.pack_begin = tasks;
    tasks += int64_t{product.blocks} * CeilDiv(product.w.in, kPackInputs);
    inputs += int64_t{product.rows} * product.w.in;
    bytes += PanelBytes(kernel, product);
  }
  std::byte* const panels = backend.panels.Reserve(bytes);
  size_t offset = 0;
  for (Product& product : products) {
    product.panels = panels + offset;
    offset += PanelBytes(kernel, product);
  }
  const int64_t piece = inputs <= kAloneInputs ? tasks : 1;
  backend.team.ForEach(tasks, piece, [&](int, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const Product& product =
          products[ProductOf(products, task, [](const Product& p) { return p.pack_begin; })];
      const int units = UnitsOf(kernel, product.w);
      const int part_units = kPackInputs / kernel.unit_inputs;
      const int parts = CeilDiv(units, part_units);
      const int index = static_cast<int>(task - product.pack_begin);
      const RowBlock block = BlockRows(product.rows, product.blocks, index / parts);
      const int first = index % parts * part_units;
      const bool gather = product.x_rows != nullptr;
      kernel.pack({.x = product.x + (gather ? 0 : block.begin * product.x_stride),
                   .x_stride = product.x_stride,
                   .row_ids = gather ? product.x_rows + block.begin : nullptr,
                   .rows = block.count,
                   .in = product.w.in,
                   .unit_begin = first,
                   .unit_end = std::min(first + part_units, units),
                   .panel = product.panels + size_t{1} * block.begin * units * kernel.panel_bytes});
    }
  });
}

// Parts of the rows at least: a task holds at most kMaxTaskRows.
int LeastRowParts(const LinearKernel& kernel, const Product& product) {
  return std::max(1, CeilDiv(product.blocks, kMaxTaskRows / kernel.max_block_rows));
}

// Cuts a product into `wanted` tasks, if it is large enough: first its rows, which costs reading
// weights again from a shared cache, then its tiles, which costs reading panels again.
void Cut(const LinearKernel& kernel, int64_t wanted, Product& product) {
  product.task_tiles = kMaxTaskTiles;
  product.row_parts = LeastRowParts(kernel, product);
  const int64_t columns = std::max(1, ColumnTasks(product));
  const int64_t most_parts = std::max(product.row_parts, product.blocks / kLeastBlocks);
  product.row_parts = static_cast<int>(
      std::clamp<int64_t>(CeilDiv(wanted, columns), product.row_parts, most_parts));
  if (columns * product.row_parts < wanted) product.task_tiles = kMaxTaskTiles / 2;
}

struct TaskIndex {
  const Product* product;
  int column;    // in task_tiles
  int row_part;  // of row_parts
};

const std::byte* FirstTile(const WeightView& w) {
  return w.format == WeightFormat::kBf16 ? reinterpret_cast<const std::byte*>(w.data) : w.codes;
}

// From one tile to the next, in bytes.
size_t TileBytes(const LinearKernel& kernel, const WeightView& w) {
  return kernel.weight_bytes * UnitsOf(kernel, w);
}

const std::byte* WeightsOf(const LinearKernel& kernel, const TaskIndex& index) {
  const WeightView& w = index.product->w;
  return FirstTile(w) + TileBytes(kernel, w) * index.column * index.product->task_tiles;
}

// Of tile `tile`; null with bf16 weights.
const F16* ScalesOf(const LinearKernel& kernel, const WeightView& w, size_t tile) {
  return w.scales == nullptr ? nullptr : w.scales + kUnitScales * UnitsOf(kernel, w) * tile;
}

// `next` is what the thread runs afterwards.
void RunTask(const LinearKernel& kernel, const TaskIndex& index, const TaskIndex& next,
             float* partial) {
  const Product& product = *index.product;
  const int tile = index.column * product.task_tiles;
  const int tiles = std::min(product.task_tiles, TilesOf(product.w) - tile);
  const int tile_columns = product.finish == Finish::kGeglu ? kTileOutputs / 2 : kTileOutputs;
  const auto block = [&](int64_t part) {
    return static_cast<int>(product.blocks * part / product.row_parts);
  };
  kernel.product({.panels = product.panels,
                  .rows = product.rows,
                  .blocks = product.blocks,
                  .block_begin = block(index.row_part),
                  .block_end = block(index.row_part + 1),
                  .units = UnitsOf(kernel, product.w),
                  .weights = WeightsOf(kernel, index),
                  .next_weights = WeightsOf(kernel, next),
                  .weight_scales = ScalesOf(kernel, product.w, tile),
                  .tiles = tiles,
                  .finish = product.finish,
                  .y = product.y + tile * tile_columns,
                  .y_stride = product.y_stride,
                  .columns = std::min(product.columns - tile * tile_columns, tiles * tile_columns),
                  .row_ids = product.y_rows,
                  .scales = product.scales,
                  .partial = partial});
}

int64_t LinesOf(const LinearKernel& kernel, const Product& product) {
  return static_cast<int64_t>(TilesOf(product.w) * TileBytes(kernel, product.w) / kLineBytes) *
         (product.rows / 4 + 1);
}

float* ReservePartials(CpuBackend& backend) {
  const size_t threads = static_cast<size_t>(backend.team.threads());
  return reinterpret_cast<float*>(
      backend.partials.Reserve(threads * kPartialFloats * sizeof(float)));
}

}  // namespace

const LinearKernel& KernelOf(const CpuBackend& backend, WeightFormat format, bool f32_operands) {
  if (format != WeightFormat::kBf16) {
    const CodedKernels& coded = backend.isa == CpuIsa::kAvx2     ? kLinearCodesAvx2
                                : backend.isa == CpuIsa::kAvx512 ? kLinearCodesAvx512
                                                                 : kLinearCodesVnni;
    return format == WeightFormat::kInt8 ? coded.int8 : coded.int4;
  }
  if (backend.isa == CpuIsa::kAvx2) return kLinearAvx2;
  if (backend.isa == CpuIsa::kAvx512Bf16 && backend.bf16_operands && !f32_operands) {
    return kLinearAvx512Bf16;
  }
  return kLinearAvx512;
}

void RunProducts(CpuBackend& backend, const LinearKernel& kernel, std::span<Product> products) {
  PackPanels(backend, kernel, products);
  float* const partials = ReservePartials(backend);
  const int64_t threads = backend.team.threads();
  const int64_t wanted = threads * kTasksPerThread / static_cast<int64_t>(products.size()) + 1;
  int64_t tasks = 0, lines = 0;
  for (Product& product : products) {
    Cut(kernel, wanted, product);
    product.task_begin = tasks;
    tasks += int64_t{ColumnTasks(product)} * product.row_parts;
    lines += LinesOf(kernel, product);
  }
  const auto index_of = [&](int64_t task) -> TaskIndex {
    const Product& product =
        products[ProductOf(products, task, [](const Product& p) { return p.task_begin; })];
    const int index = static_cast<int>(task - product.task_begin);
    return {&product, index / product.row_parts, index % product.row_parts};
  };
  backend.team.ForRuns(tasks, lines <= kAloneLines, [&](int thread, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      RunTask(kernel, index_of(task), index_of(std::min(task + 1, end - 1)),
              partials + thread * kPartialFloats);
    }
  });
}

void RunProductsInOrder(CpuBackend& backend, const LinearKernel& kernel,
                        std::span<Product> products) {
  PackPanels(backend, kernel, products);
  float* const partials = ReservePartials(backend);
  const int64_t wanted = int64_t{backend.team.threads()} * kTasksPerThread;
  int64_t lines = 0;
  for (Product& product : products) {
    product.task_tiles =
        TilesOf(product.w) < wanted * kMaxTaskTiles ? kMaxTaskTiles / 2 : kMaxTaskTiles;
    product.row_parts = LeastRowParts(kernel, product);
    lines += LinesOf(kernel, product);
  }
  const int64_t tasks = products.empty() ? 0 : ColumnTasks(products[0]);
  backend.team.ForRuns(tasks, lines <= kAloneLines, [&](int thread, int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; ++column) {
      for (size_t i = 0; i < products.size(); ++i) {
        const Product& product = products[i];
        for (int part = 0; part < product.row_parts; ++part) {
          const TaskIndex index = {&product, static_cast<int>(column), part};
          TaskIndex next = index;
          if (part + 1 == product.row_parts) {
            if (i + 1 < products.size()) {
              next.product = &products[i + 1];
            } else if (column + 1 < end) {
              next = {&products[0], index.column + 1, 0};
            }
          }
          RunTask(kernel, index, next, partials + thread * kPartialFloats);
        }
      }
    }
  });
}

void RunClusters(CpuBackend& backend, const LinearKernel& kernel, const LinearClustersArgs& args) {
  const int units = UnitsOf(kernel, args.first);
  const int tiles = TilesOf(args.first);
  const size_t tile_bytes = TileBytes(kernel, args.first);
  const int64_t lines = static_cast<int64_t>(tiles * tile_bytes / kLineBytes);  // of one cluster
  // A row is a panel of its own. One thread packs them: together they are a hundredth of the work.
  const size_t panel_bytes = CeilDiv(units * kernel.panel_bytes, size_t{64}) * 64;
  std::byte* const panels = backend.panels.Reserve(args.rows * panel_bytes);
  for (int64_t t = 0; t < args.rows; ++t) {
    kernel.pack({.x = AsF32(args.x) + t * args.x_stride,
                 .x_stride = args.x_stride,
                 .row_ids = nullptr,
                 .rows = 1,
                 .in = args.first.in,
                 .unit_begin = 0,
                 .unit_end = units,
                 .panel = panels + t * panel_bytes});
  }
  float* const partials = ReservePartials(backend);
  const int64_t count = int64_t{args.rows} * args.chosen;
  const auto weights_of = [&](int64_t index) {
    return reinterpret_cast<const std::byte*>(args.first.data +
                                              args.ids[index] * args.cluster_elements);
  };
  const bool alone = count * lines <= kAloneLines;
  backend.team.ForRuns(count, alone, [&](int thread, int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t t = index / args.chosen;
      const std::byte* const weights = weights_of(index);
      const std::byte* const next = weights_of(std::min(index + 1, end - 1));
      float* const y = args.y + t * args.y_stride + index % args.chosen * int64_t{args.first.out};
      for (int tile = 0; tile < tiles; tile += kMaxTaskTiles) {
        const int task_tiles = std::min(kMaxTaskTiles, tiles - tile);
        const std::byte* const task_weights = weights + tile_bytes * tile;
        const bool last = tile + task_tiles == tiles;
        kernel.product(
            {.panels = panels + t * panel_bytes,
             .rows = 1,
             .blocks = 1,
             .block_begin = 0,
             .block_end = 1,
             .units = units,
             .weights = task_weights,
             .next_weights = last ? next : task_weights + tile_bytes * task_tiles,
             .weight_scales = nullptr,
             .tiles = task_tiles,
             .finish = Finish::kStore,
             .y = y + tile * kTileOutputs,
             .y_stride = args.y_stride,
             .columns = std::min(args.first.out - tile * kTileOutputs, task_tiles * kTileOutputs),
             .row_ids = nullptr,
             .scales = nullptr,
             .partial = partials + thread * kPartialFloats});
      }
    }
  });
}

}  // namespace tandem::kernels
