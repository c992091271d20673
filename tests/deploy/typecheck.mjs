// Checks values against TypeScript types by writing them as literals and asking tsc: unknown fields
// and wrong types are errors that name the field.
import {spawnSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';

const folder = process.env.FULGUR_NODE_FOLDER;

/** Returns tsc's complaints about `lines` of TypeScript, each with the name of its value. */
export function typecheck(name, lines) {
  const file = join(folder, `${name}.ts`);
  writeFileSync(file, lines.join('\n'));
  const tsc = join(folder, 'node_modules/typescript/bin/tsc');
  const flags = [
    '--noEmit',
    '--strict',
    '--skipLibCheck',
    '--target',
    'es2022',
    '--module',
    'esnext',
    '--moduleResolution',
    'bundler',
    '--pretty',
    'false',
  ];
  const result = spawnSync(process.execPath, [tsc, ...flags, file], {
    encoding: 'utf8',
    cwd: folder,
  });
  if (result.status === 0) return [];
  return result.stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const at = /\.ts\((\d+),/.exec(line);
      return at ? `${valueAt(lines, Number(at[1]))}: ${line.replace(/^.*?error /, '')}` : line;
    });
}

function valueAt(lines, number) {
  const text = lines.join('\n').split('\n').slice(0, number).reverse();
  return text.find((line) => line.startsWith('// '))?.slice(3) ?? '?';
}

/** A literal with the comment that complaints are named by. */
export const literal = (label, id, type, value) =>
  `// ${label}\nexport const ${id}: ${type} = ${JSON.stringify(value, null, 1)};`;
