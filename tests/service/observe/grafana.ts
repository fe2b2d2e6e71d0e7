// Grafana's own types of a dashboard, of the panels that are used here, as one type: grafana.schema.json is made of it.
// In an empty folder, with this file in it:
//
//   npm install @grafana/schema@13.2.3 ts-json-schema-generator@2.3.0 typescript@5
//   echo '{"compilerOptions": {"module": "esnext", "moduleResolution": "bundler", "strict": true, "skipLibCheck": true}}' > tsconfig.json
//   npx ts-json-schema-generator --tsconfig tsconfig.json --path grafana.ts --type Dashboard --expose none --jsDoc none \
//     --minify --out grafana.schema.json

import * as common from "./node_modules/@grafana/schema/dist/types/common/common.gen";
import * as dashboard from "./node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen";
import * as bargauge from "./node_modules/@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen";
import * as stat from "./node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
import * as table from "./node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen";
import * as timeseries from "./node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";

// Prometheus' data source is a plugin of its own, and its query not in the package: its documented fields.
type Query = common.DataQuery & {
  expr: string;
  instant?: boolean;
  range?: boolean;
  exemplar?: boolean;
  editorMode?: "code" | "builder";
  format?: "time_series" | "table" | "heatmap";
  legendFormat?: string;
};
// What a panel leaves open is filled in by its plugin.
type Fields<C> = Omit<dashboard.FieldConfigSource, "defaults"> & { defaults: Omit<dashboard.FieldConfig, "custom"> & { custom?: C } };
type Panel<T extends string, O, C> = Omit<dashboard.Panel, "type" | "options" | "fieldConfig" | "targets"> & {
  type: T;
  options: O;
  fieldConfig: Fields<C>;
  targets: Query[];
};
export type Dashboard = Omit<dashboard.Dashboard, "panels"> & {
  panels: (
    | Panel<"timeseries", timeseries.Options, timeseries.FieldConfig>
    | Panel<"stat", stat.Options, {}>
    | Panel<"bargauge", bargauge.Options, {}>
    | Panel<"table", table.Options, table.FieldConfig>
    | dashboard.RowPanel
  )[];
};
